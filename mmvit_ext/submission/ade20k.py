"""ADE20K scene parsing: a PNG with the name of each test image, labels from 1 to 150.

Rules: https://github.com/CSAILVision/sceneparsing.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from mmengine.config import Config
from PIL import Image

from mmvit_ext.config.walking import iter_dataset_cfgs
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.inference.images import collect_images
from mmvit_ext.inference.predictor import Predictor

from .run import Benchmark

__all__ = ['ADE20K', 'CLASSES']

CLASSES = 150
"""Classes of the benchmark, labelled from 1; 0 is 'other' in the annotations and does not count."""


class ADE20K(Benchmark):
    """The label maps of all images of a folder, predicted by a model of mmseg for 150 classes."""

    name, title, scope, suffix = 'ade20k', 'scene parsing', 'mmseg', '.png'

    def plan(self, cfg: Config, folder: Path, out: Path, *, tta: bool) -> tuple[dict[str, Path], list[Path]]:
        """One archive, and all images of the folder."""
        loader = cfg.get('test_dataloader') or {}
        for key, dataset in iter_dataset_cfgs(loader.get('dataset'), 'test_dataloader.dataset'):
            if dataset.get('reduce_zero_label') is False:
                fault = f'{key}.reduce_zero_label is False: the model counts its classes from another label'
                raise UserError(f'{fault} than the benchmark; use a config with 150 classes and reduce_zero_label=True')
        return {'labels': out}, collect_images([folder])

    def writer(self, predictor: Predictor) -> Callable[[Path, Path], None]:
        """What writes label maps; mmseg's ``IoUMetric(format_only=True)`` chooses the name of the file itself."""
        if (count := len(predictor.classes)) != CLASSES:
            fault = f'the model has {count} classes, the benchmark has {CLASSES}'
            raise UserError(f'{fault}: use a model that was trained on ADE20K')
        return lambda path, file: Image.fromarray((predictor.segment(path)[1] + 1).astype(np.uint8)).save(file)

    def members(self, kind: str, archive: Path, files: Sequence[Path]) -> Iterator[tuple[str, Iterable[bytes]]]:
        """The files as they are."""
        return ((file.name, [file.read_bytes()]) for file in sorted(files))
