"""ADE20K scene parsing: predict the test images into the archive that the benchmark takes.

Rules: https://github.com/CSAILVision/sceneparsing: a PNG with the name of each image, labels from 1 to 150.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmvit_ext.config.loading import load_config
from mmvit_ext.config.walking import iter_dataset_cfgs
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.inference.images import Outcome, collect_images

from .run import FinishedImages, check_targets, image_folder, load_predictor, predict_missing, write_archive

__all__ = ['CLASSES', 'submit_ade20k']

CLASSES = 150
"""Classes of the benchmark, labelled from 1; 0 is 'other' in the annotations and does not count."""


def submit_ade20k(
    config: str | Path,
    checkpoint: str | Path,
    images: str | Path,
    out: str | Path,
    *,
    tta: bool = False,
    device: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    allow_partial: bool = False,
    trust: bool = False,
    progress: bool = True,
) -> tuple[Path, Outcome]:
    """Predict the test images of ADE20K and write the archive for the benchmark.

    The arguments are those of :func:`mmvit_ext.submission.coco.submit_coco`, with a config of mmseg for 150 classes.
    All images of the folder are predicted.

    Returns:
        The archive and what became of the images. If images failed, no archive is written; the finished ones are kept,
        and the same call resumes.

    Raises:
        UserError: The arguments, the config or the checkpoint are wrong.
    """
    cfg = load_config(config, cfg_options)
    if cfg.get('default_scope') != 'mmseg':
        raise UserError(f'{config} is of scope {cfg.get("default_scope")}: scene parsing needs a config of mmseg')
    for key, dataset in iter_dataset_cfgs((cfg.get('test_dataloader') or {}).get('dataset'), 'test_dataloader.dataset'):
        if dataset.get('reduce_zero_label') is False:
            raise UserError(
                f'{key}.reduce_zero_label of {config} is False: the model counts its classes from another label than '
                'the benchmark; use a config with the 150 classes and reduce_zero_label=True'
            )
    archive = Path(out).expanduser()
    check_targets(archive, [archive])
    paths = collect_images([image_folder(images)])
    predictor = load_predictor(cfg, checkpoint, tta=tta, device=device, allow_partial=allow_partial, trust=trust)
    if len(predictor.classes) != CLASSES:
        raise UserError(
            f'the model of {config} has {len(predictor.classes)} classes, the benchmark has {CLASSES}: use a model '
            'that was trained on ADE20K'
        )
    finished = FinishedImages(archive, '.png', cfg, checkpoint, {'benchmark': 'ade20k', '--tta': tta})

    def write(path: Path, file: Path) -> None:
        # mmseg's IoUMetric(format_only=True) chooses the file's name itself, and one that is atomic is needed here.
        labels = predictor.segment(path)[1] + 1
        Image.fromarray(labels.astype(np.uint8)).save(file)

    outcome = predict_missing(paths, finished, write, progress=progress)
    if not outcome.failed:
        write_archive(archive, ((file.name, [file.read_bytes()]) for file in sorted(outcome.written)))
        finished.remove()
    return archive, outcome
