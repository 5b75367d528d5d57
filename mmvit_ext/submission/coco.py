"""COCO detection: predict a test split into the archives that its server takes.

Rules: https://cocodataset.org/#upload (names), #format-results (content), #detection-eval (100 objects an image).
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmvit_ext.config.walking import walk
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.inference.images import collect_images
from mmvit_ext.inference.predictor import Predictor

from .run import Benchmark
from .splits import CocoSplit, read_coco_split, split_of_images

__all__ = ['ARCHIVE_NAME', 'COCO', 'KINDS', 'MAX_OBJECTS', 'NAME_RULE', 'TEST_DEV_IMAGES', 'archive_names']

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

    A single type gets ``out``, and of two, each adds its type to the method's name. ``UserError`` for a name that the
    server does not take.
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


class COCO(Benchmark):
    """The objects in the images of a split, found by a model of mmdet.

    Args:
        annotations: The image list of the split. Without it, all images of the folder are predicted, and their names
            are their ids.
        kind: 'bbox' or 'segm' for that archive only; by default all that the model predicts. A model with masks has
            two archives, see :func:`archive_names`.
    """

    name, title, scope, suffix = 'coco', 'COCO detection', 'mmdet', '.json'

    def __init__(self, annotations: str | Path | None = None, kind: str | None = None) -> None:
        self.annotations, self.kind = annotations, kind
        self.split: CocoSplit

    def plan(self, cfg: Config, folder: Path, out: Path, *, tta: bool) -> tuple[dict[str, Path], list[Path]]:
        """The archive of each test type, and the images of the split."""
        heads = ('mask_head', 'panoptic_head')
        masks = any(key.endswith(heads) and value is not None for key, value in walk(cfg.model))
        if self.kind == 'segm' and not masks:
            raise UserError('--type segm: the model of the config has no mask head; leave the option out')
        if tta and masks:
            raise UserError(
                "--tta: the model of the config predicts masks, and mmdet's DetTTAModel merges boxes only: leave the "
                'option out, or use a config without a mask head'
            )
        tested = {'model.test_cfg.': cfg.model.get('test_cfg')}
        if tta:
            tested['tta_model.tta_cfg.'] = (cfg.get('tta_model') or {}).get('tta_cfg')
        for key, limit in (entry for prefix, node in tested.items() for entry in walk(node, prefix)):
            # The regions of a first stage are more, and no objects.
            if key.endswith('.max_per_img') and '.rpn.' not in key and isinstance(limit, int) and limit > MAX_OBJECTS:
                raise UserError(
                    f'{key} of the config is {limit}, and {MAX_OBJECTS} objects of an image count on the server: pass '
                    f'--cfg-options {key}={MAX_OBJECTS}'
                )
        archives = archive_names(out, [self.kind] if self.kind else KINDS if masks else KINDS[:1])
        return archives, self._images(folder, out)

    def _images(self, folder: Path, out: Path) -> list[Path]:
        if self.annotations is not None:
            self.split = read_coco_split(self.annotations)
            absent = [name for name in self.split.ids if not (folder / name).is_file()]
            if absent:
                raise UserError(
                    f'--images {folder} lacks {len(absent)} of the {len(self.split.ids)} images of {self.annotations}, '
                    f'the first is {absent[0]}: unpack them there'
                )
            return [folder / name for name in self.split.ids]
        paths = collect_images([folder])
        if out.name.startswith('detections_test-dev2017_') and len(paths) != TEST_DEV_IMAGES:
            raise UserError(
                f'test-dev2017 has {TEST_DEV_IMAGES} images and {folder} has {len(paths)}: pass --annotations '
                'image_info_test-dev2017.json, which lists those that belong to it (the server refuses others)'
            )
        self.split = split_of_images(paths)
        return paths

    def writer(self, predictor: Predictor) -> Callable[[Path, Path], None]:
        """What writes COCO's entries of an image by test type, made by mmdet's own metric."""
        from mmdet.evaluation import CocoMetric

        split = self.split
        unknown = [name for name in predictor.classes if name not in split.categories]
        if unknown:
            raise UserError(
                f'the model has classes that are no categories of the split, the first is {unknown[0]!r}: use a model '
                'that was trained on COCO'
            )
        metric: Any = CocoMetric(format_only=True, outfile_prefix='unused')
        metric.cat_ids = [split.categories[name] for name in predictor.classes]

        def write(path: Path, file: Path) -> None:
            number = split.ids[path.name]
            sample = predictor(path)[1]
            (height, width), (rows, columns) = sample.metainfo['ori_shape'], split.sizes[number]
            if (height, width) != (rows, columns):
                raise UserError(
                    f'{path} has {height}x{width} pixels (height x width), the split says {rows}x{columns}: the folder '
                    'holds other images'
                )
            metric.results.clear()
            metric.process({}, [{**sample.to_dict(), 'img_id': number, 'instances': []}])
            with tempfile.TemporaryDirectory() as place:
                files = metric.results2json([found for _, found in metric.results], f'{place}/image')
                entries = {kind: json.loads(Path(files[kind]).read_text()) for kind in KINDS if kind in files}
            for entry in entries.get('segm', []):
                # pycocotools takes an object's area from its box where it has one, and so sorts masks wrongly.
                del entry['bbox']
            if (total := len(entries['bbox'])) > MAX_OBJECTS:
                raise UserError(
                    f'the model finds {total} objects in an image, and {MAX_OBJECTS} count on the server: lower '
                    'max_per_img in the config'
                )
            file.write_text(json.dumps(entries), encoding='utf-8')

        return write

    def members(self, kind: str, archive: Path, files: Sequence[Path]) -> Iterator[tuple[str, Iterable[bytes]]]:
        """The entries of all images as one JSON list, in parts."""
        yield f'{archive.stem}.json', _json_list(kind, sorted(files, key=lambda path: path.name))


def _json_list(kind: str, files: Sequence[Path]) -> Iterator[bytes]:
    separator = b'['
    for file in files:
        for entry in json.loads(file.read_text(encoding='utf-8'))[kind]:
            yield separator + json.dumps(entry).encode()
            separator = b',\n'
    yield b'[]' if separator == b'[' else b']'
