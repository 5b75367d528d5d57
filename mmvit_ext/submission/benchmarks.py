"""The test sets of two servers: COCO detection and ADE20K scene parsing.

Rules: https://cocodataset.org/#upload (names), #format-results (content), #detection-eval (100 objects an image);
https://github.com/CSAILVision/sceneparsing: a PNG with the name of each test image, labels from 1 to 150.
"""

import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config
from PIL import Image

from mmvit_ext.checks.coco_file import read_lists
from mmvit_ext.config.walking import iter_dataset_cfgs, walk
from mmvit_ext.datasets.mini.catalog import COCO_CATEGORIES
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import open_image
from mmvit_ext.inference.images import collect_images
from mmvit_ext.inference.predictor import Predictor

from .run import Benchmark

__all__ = ['ADE20K', 'ADE20K_CLASSES', 'ARCHIVE_NAME', 'COCO', 'COCO_IDS', 'KINDS', 'MAX_OBJECTS', 'NAME_RULE']
__all__ += ['TEST_DEV_IMAGES', 'CocoSplit', 'image_size', 'read_coco_split', 'split_of_images']

ADE20K_CLASSES = 150  # labelled from 1; 0 is 'other' in the annotations and does not count
KINDS = ('bbox', 'segm')  # the two test types of the server
MAX_OBJECTS = 100  # objects of an image that count; those with the highest scores
TEST_DEV_IMAGES = 20288
SPLITS = ('val2017', 'test-dev2017', 'test-challenge2017')
NAME_RULE = 'detections_SPLIT_NAME_results.zip'
ARCHIVE_NAME = re.compile(rf'detections_(?P<split>{"|".join(SPLITS)})_(?P<name>[A-Za-z0-9][\w.+-]*)_results')
"""Names without suffix that the server takes, such as ``detections_test-dev2017_p2t-small_results``."""
COCO_IDS = {name: number for number, name, _ in COCO_CATEGORIES}
"""Category ids by name, as in COCO's own annotation files."""
IMAGE_LIST = 'image_info_test-dev2017.json'
_ORIENTATION, _FIRST_TURNED = 0x0112, 5  # EXIF: from 5 on, width and height change places


class CocoSplit(NamedTuple):
    """A split of COCO: image ids by file name, height and width in pixels by image id, category ids by name."""

    ids: dict[str, int]
    sizes: dict[int, tuple[int, int]]
    categories: dict[str, int]


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image in pixels, turned as its EXIF data say; only the head of the file is read."""
    try:
        with open_image(path) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION, 1) >= _FIRST_TURNED
    except Exception as error:  # decoders raise what they like
        raise UserError(f'the image {path} cannot be read ({error}): copy or download it again') from error
    return (width, height) if turned else (height, width)


def read_coco_split(path: str | Path) -> CocoSplit:
    """Read the image list of a split or its annotations; categories that the file does not list are COCO's own."""
    content = read_lists(Path(path).expanduser(), '--annotations', 'images')
    images = content['images']
    try:
        ids = {str(entry['file_name']): int(entry['id']) for entry in images}
        sizes = {int(entry['id']): (int(entry['height']), int(entry['width'])) for entry in images}
        categories = {str(entry['name']): int(entry['id']) for entry in content.get('categories') or []}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f'--annotations {path} is no image list of COCO ({type(error).__name__}: {error}): expected "images" with '
            f'"id", "file_name", "height" and "width", as in {IMAGE_LIST}'
        ) from error
    if not ids:
        raise UserError(f'--annotations {path} lists no images: expected a file such as {IMAGE_LIST}')
    if not len(ids) == len(sizes) == len(images):
        raise UserError(f'--annotations {path} has an id or a file_name twice in "images": download it again')
    return CocoSplit(ids, sizes, categories or COCO_IDS)


def split_of_images(paths: Iterable[Path]) -> CocoSplit:
    """The split of the given images of COCO 2017, whose names are their ids: ``000000000139.jpg`` has the id 139."""
    ids, sizes = {}, {}
    for path in paths:
        if not re.fullmatch(r'\d{12}', path.stem):
            raise UserError(
                f'the name of {path} is no image id: expected twelve digits as in 000000000139.jpg; pass '
                f'--annotations with the image list of the split ({IMAGE_LIST})'
            )
        ids[path.name] = int(path.stem)
        sizes[int(path.stem)] = image_size(path)
    return CocoSplit(ids, sizes, COCO_IDS)


class COCO(Benchmark):
    """The objects in the images of a split, found by a model of mmdet.

    Args:
        annotations: The image list of the split. Without it, all images of the folder are predicted, and their names
            are their ids.
        kind: 'bbox' or 'segm' for that archive only; by default all that the model predicts.
    """

    name, title, scope, suffix = 'coco', 'COCO detection', 'mmdet', '.json'

    def __init__(self, annotations: str | Path | None = None, kind: str | None = None) -> None:
        self.annotations, self.kind = annotations, kind
        self.split: CocoSplit

    def plan(self, cfg: Config, folder: Path, out: Path, *, tta: bool) -> tuple[dict[str, Path], list[Path]]:
        """The archive of each test type, and the images of the split.

        A single test type gets ``out``; of two, each adds its type to the method's name.
        """
        heads = ('mask_head', 'panoptic_head')
        masks = any(key.endswith(heads) and value is not None for key, value in walk(cfg.model))
        if self.kind == 'segm' and not masks:
            raise UserError('--type segm: the model of the config has no mask head; leave the option out')
        if tta and masks:
            fault = "the model of the config predicts masks, and mmdet's DetTTAModel merges boxes only"
            raise UserError(f'--tta: {fault}: leave the option out, or use a config without a mask head')
        tested = {'model.test_cfg.': cfg.model.get('test_cfg')}
        if tta:
            tested['tta_model.tta_cfg.'] = (cfg.get('tta_model') or {}).get('tta_cfg')
        for key, limit in (entry for prefix, node in tested.items() for entry in walk(node, prefix)):
            # The regions of a first stage are more, and no objects.
            if key.endswith('.max_per_img') and '.rpn.' not in key and isinstance(limit, int) and limit > MAX_OBJECTS:
                fault = f'{key} of the config is {limit}, and {MAX_OBJECTS} objects of an image count on the server'
                raise UserError(f'{fault}: pass --cfg-options {key}={MAX_OBJECTS}')
        parts = ARCHIVE_NAME.fullmatch(out.stem)
        if parts is None:
            raise UserError(
                f'--out {out.name}: the server takes names {NAME_RULE} with one of {", ".join(SPLITS)} for SPLIT and '
                'your name of the method for NAME, such as detections_test-dev2017_p2t-small_results.zip'
            )
        name = f'detections_{parts["split"]}_{parts["name"]}-{{}}_results.zip'
        kinds = [self.kind] if self.kind else KINDS if masks else KINDS[:1]
        archives = {kind: out if len(kinds) == 1 else out.with_name(name.format(kind)) for kind in kinds}
        return archives, self._images(folder, parts['split'])

    def _images(self, folder: Path, split: str) -> list[Path]:
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
        if split == 'test-dev2017' and len(paths) != TEST_DEV_IMAGES:
            raise UserError(
                f'test-dev2017 has {TEST_DEV_IMAGES} images and {folder} has {len(paths)}: pass --annotations '
                f'{IMAGE_LIST}, which lists those that belong to it (the server refuses others)'
            )
        self.split = split_of_images(paths)
        return paths

    def writer(self, predictor: Predictor) -> Callable[[Path, Path], None]:
        """What writes COCO's entries of an image by test type, made by mmdet's own metric."""
        from mmdet.evaluation import CocoMetric

        split = self.split
        unknown = [name for name in predictor.classes if name not in split.categories]
        if unknown:
            fault = f'the model has classes that are no categories of the split, the first is {unknown[0]!r}'
            raise UserError(f'{fault}: use a model that was trained on COCO')
        metric: Any = CocoMetric(format_only=True, outfile_prefix='unused')
        metric.cat_ids = [split.categories[name] for name in predictor.classes]

        def write(path: Path, file: Path) -> None:
            number = split.ids[path.name]
            sample = predictor(path)[1]
            (height, width), (rows, columns) = sample.metainfo['ori_shape'], split.sizes[number]
            if (height, width) != (rows, columns):
                fault = f'{path} has {height}x{width} pixels (height x width), the split says {rows}x{columns}'
                raise UserError(f'{fault}: the folder holds other images')
            metric.results.clear()
            metric.process({}, [{**sample.to_dict(), 'img_id': number, 'instances': []}])
            with tempfile.TemporaryDirectory() as place:
                files = metric.results2json([found for _, found in metric.results], f'{place}/image')
                entries = {kind: json.loads(Path(files[kind]).read_text()) for kind in KINDS if kind in files}
            for entry in entries.get('segm', []):
                # pycocotools takes an object's area from its box where it has one, and so sorts masks wrongly.
                del entry['bbox']
            if (total := len(entries['bbox'])) > MAX_OBJECTS:
                fault = f'the model finds {total} objects in an image, and {MAX_OBJECTS} count on the server'
                raise UserError(f'{fault}: lower max_per_img in the config')
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
        if (count := len(predictor.classes)) != ADE20K_CLASSES:
            fault = f'the model has {count} classes, the benchmark has {ADE20K_CLASSES}'
            raise UserError(f'{fault}: use a model that was trained on ADE20K')
        return lambda path, file: Image.fromarray((predictor.segment(path)[1] + 1).astype(np.uint8)).save(file)

    def members(self, kind: str, archive: Path, files: Sequence[Path]) -> Iterator[tuple[str, Iterable[bytes]]]:
        """The files as they are."""
        return ((file.name, [file.read_bytes()]) for file in sorted(files))
