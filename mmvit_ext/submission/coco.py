"""COCO detection: predict a test split into the archives that its server takes.

Rules: https://cocodataset.org/#upload (names), #format-results (content), #detection-eval (100 objects an image).
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmvit_ext.config.loading import load_config
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.inference.images import Outcome, collect_images

from .run import FinishedImages, check_targets, image_folder, load_predictor, predict_missing, write_archive
from .splits import CocoSplit, read_coco_split, split_of_images

__all__ = ['ARCHIVE_NAME', 'KINDS', 'MAX_OBJECTS', 'NAME_RULE', 'archive_names', 'submit_coco']

KINDS = ('bbox', 'segm')
"""The two test types of the server."""
MAX_OBJECTS = 100
"""Objects of an image that count; those with the highest scores."""
TEST_DEV_IMAGES = 20288
SPLITS = ('val2017', 'test-dev2017', 'test-challenge2017')
NAME_RULE = 'detections_SPLIT_NAME_results.zip'
ARCHIVE_NAME = re.compile(rf'detections_(?P<split>{"|".join(SPLITS)})_(?P<name>[A-Za-z0-9][\w.+-]*)_results')
"""Names without suffix that the server takes, such as ``detections_test-dev2017_p2t-small_results``."""


def archive_names(out: Path, kinds: Sequence[str]) -> dict[str, Path]:
    """The archive of each test type, 'bbox' and 'segm'.

    The server wants an archive for each type, both named by the same rule: a single type gets ``out``, and of two, each
    adds its type to the method's name. Raises ``UserError`` for a name that the server does not take.
    """
    parts = ARCHIVE_NAME.fullmatch(out.stem)
    if parts is None:
        raise UserError(
            f'--out {out.name}: the server takes archives that are named {NAME_RULE} with one of {", ".join(SPLITS)} '
            'for SPLIT and your name of the method for NAME, for example detections_test-dev2017_p2t-small_results.zip'
        )
    if len(kinds) == 1:
        return {kinds[0]: out}
    return {kind: out.with_name(f'detections_{parts["split"]}_{parts["name"]}-{kind}_results.zip') for kind in kinds}


def submit_coco(
    config: str | Path,
    checkpoint: str | Path,
    images: str | Path,
    out: str | Path,
    *,
    annotations: str | Path | None = None,
    kind: str | None = None,
    tta: bool = False,
    device: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    allow_partial: bool = False,
    trust: bool = False,
    progress: bool = True,
) -> tuple[dict[str, Path], Outcome]:
    """Predict a test split of COCO and write the archives for its server.

    Args:
        config: The config of the training run, of mmdet.
        checkpoint: The checkpoint file.
        images: The folder of the test images.
        out: The archive, named as the server wants it. A model with masks has two, see :func:`archive_names`.
        annotations: The image list of the split. Without it, all images of the folder are predicted, and their names
            are their ids.
        kind: 'bbox' or 'segm' for that archive only; by default all that the model predicts.
        tta: Whether to merge several views of each image, as the config says; only for models without masks.
        device: Where to run, see :func:`mmvit_ext.config.building.resolve_device`.
        cfg_options: Overrides of the config, by dotted key.
        allow_partial: Accept a checkpoint that does not fit the model.
        trust: Read a checkpoint that holds more than tensors with pickle, which runs code from it.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The archives by test type, and what became of the images. If images failed, no archive is written; the finished
        ones are kept, and the same call resumes.

    Raises:
        UserError: The arguments, the config or the checkpoint are wrong.
    """
    cfg = load_config(config, cfg_options)
    if cfg.get('default_scope') != 'mmdet':
        raise UserError(f'{config} is of scope {cfg.get("default_scope")}: COCO detection needs a config of mmdet')
    masks = _predicts_masks(cfg.model)
    _check_model(cfg, config, kind, masks=masks, tta=tta)
    target = Path(out).expanduser()
    archives = archive_names(target, [kind] if kind else KINDS if masks else KINDS[:1])
    check_targets(target, archives.values())
    paths, split = _images_of_split(image_folder(images), annotations, target)
    predictor = load_predictor(cfg, checkpoint, tta=tta, device=device, allow_partial=allow_partial, trust=trust)
    encoder = _Encoder(_category_ids(predictor.classes, split))
    finished = FinishedImages(target, '.json', cfg, checkpoint, {'benchmark': 'coco', '--tta': tta})

    def write(path: Path, file: Path) -> None:
        number = split.ids[path.name]
        sample = predictor(path)[1]
        (height, width), (rows, columns) = sample.metainfo['ori_shape'], split.sizes[number]
        if (height, width) != (rows, columns):
            raise UserError(
                f'{path} has {height}x{width} pixels (height x width), the split says {rows}x{columns}: the folder '
                'holds other images'
            )
        file.write_text(json.dumps(encoder(sample, number)), encoding='utf-8')

    outcome = predict_missing(paths, finished, write, progress=progress)
    if not outcome.failed:
        files = sorted(outcome.written, key=lambda path: path.name)
        for one, archive in archives.items():
            write_archive(archive, [(f'{archive.stem}.json', _json_list(one, files))])
        finished.remove()
    return archives, outcome


def _check_model(cfg: Config, config: str | Path, kind: str | None, *, masks: bool, tta: bool) -> None:
    if kind == 'segm' and not masks:
        raise UserError(f'--type segm: the model of {config} has no mask head; leave the option out')
    if tta and masks:
        raise UserError(
            f"--tta: the model of {config} predicts masks, and mmdet's DetTTAModel merges boxes only: leave the option "
            'out, or use a config without a mask head'
        )
    limits = _limits(cfg.model.get('test_cfg'), 'model.test_cfg')
    if tta:
        limits += _limits((cfg.get('tta_model') or {}).get('tta_cfg'), 'tta_model.tta_cfg')
    for key, limit in limits:
        if limit > MAX_OBJECTS:
            raise UserError(
                f'{key} of {config} is {limit}, and {MAX_OBJECTS} objects of an image count on the server: pass '
                f'--cfg-options {key}={MAX_OBJECTS}'
            )


def _predicts_masks(node: Any) -> bool:
    if isinstance(node, Mapping):
        return any(
            (key.endswith(('mask_head', 'panoptic_head')) and value is not None) or _predicts_masks(value)
            for key, value in node.items()
        )
    return isinstance(node, list | tuple) and any(_predicts_masks(entry) for entry in node)


def _limits(test_cfg: Any, key: str) -> list[tuple[str, int]]:
    """Most objects of an image, in a one-stage detector and behind the regions of a two-stage one."""
    if not isinstance(test_cfg, Mapping):
        return []
    found = _limits(test_cfg.get('rcnn'), f'{key}.rcnn')
    limit = test_cfg.get('max_per_img')
    return [*found, (f'{key}.max_per_img', limit)] if isinstance(limit, int) else found


def _images_of_split(folder: Path, annotations: str | Path | None, out: Path) -> tuple[list[Path], CocoSplit]:
    if annotations is not None:
        split = read_coco_split(annotations)
        absent = [name for name in split.ids if not (folder / name).is_file()]
        if absent:
            raise UserError(
                f'--images {folder} lacks {len(absent)} of the {len(split.ids)} images of {annotations}, the first is '
                f'{absent[0]}: unpack them there'
            )
        return [folder / name for name in split.ids], split
    paths = collect_images([folder])
    if out.name.startswith('detections_test-dev2017_') and len(paths) != TEST_DEV_IMAGES:
        raise UserError(
            f'test-dev2017 has {TEST_DEV_IMAGES} images and {folder} has {len(paths)}: pass --annotations '
            'image_info_test-dev2017.json, which lists those that belong to it (the server refuses others)'
        )
    return paths, split_of_images(paths)


def _category_ids(classes: Sequence[str], split: CocoSplit) -> list[int]:
    unknown = [name for name in classes if name not in split.categories]
    if unknown:
        raise UserError(
            f'the model has classes that are no categories of the split, the first is {unknown[0]!r}: use a model '
            'that was trained on COCO'
        )
    return [split.categories[name] for name in classes]


class _Encoder:
    """Turns what the model predicts for an image into COCO's entries by test type, through mmdet's own metric."""

    def __init__(self, category_ids: list[int]) -> None:
        from mmdet.evaluation import CocoMetric

        self.metric = CocoMetric(format_only=True, outfile_prefix='unused')
        self.metric.cat_ids = category_ids

    def __call__(self, sample: Any, number: int) -> dict[str, list[dict[str, Any]]]:
        self.metric.results.clear()
        self.metric.process({}, [{**sample.to_dict(), 'img_id': number, 'instances': []}])
        with tempfile.TemporaryDirectory() as folder:
            files = self.metric.results2json([found for _, found in self.metric.results], f'{folder}/image')
            entries = {kind: json.loads(Path(files[kind]).read_text()) for kind in KINDS if kind in files}
        for entry in entries.get('segm', []):
            # pycocotools takes an object's area from its box where it has one, and so sorts masks into wrong sizes.
            del entry['bbox']
        if len(entries['bbox']) > MAX_OBJECTS:
            raise UserError(
                f'the model finds {len(entries["bbox"])} objects in an image, and {MAX_OBJECTS} count on the server: '
                'lower max_per_img in the config'
            )
        return entries


def _json_list(kind: str, files: Sequence[Path]) -> Iterator[bytes]:
    """The entries of all images as one JSON list, in parts."""
    separator = b'['
    for file in files:
        for entry in json.loads(file.read_text(encoding='utf-8'))[kind]:
            yield separator + json.dumps(entry).encode()
            separator = b',\n'
    yield b'[]' if separator == b'[' else b']'
