"""Predict the test sets of two servers into archives; an interrupted run keeps its finished images and resumes.

Rules: https://cocodataset.org/#upload (names), #format-results (content), #detection-eval (100 objects an image);
https://github.com/CSAILVision/sceneparsing: a PNG with the name of each test image, labels from 1 to 150.
"""

import hashlib
import json
import os
import re
import tempfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config
from PIL import Image

from mmvit_ext.checks.coco_file import read_lists
from mmvit_ext.config.building import resolve_device
from mmvit_ext.config.loading import load_config
from mmvit_ext.config.walking import iter_dataset_cfgs, walk
from mmvit_ext.datasets.mini.catalog import COCO_CATEGORIES
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import atomic_path, fit_name, kept_files, open_image, sha256_of, sole_use, writable_folder
from mmvit_ext.inference.images import Outcome, collect_images, process_images
from mmvit_ext.inference.predictor import Predictor, TTAPredictor
from mmvit_ext.inference.speed import speed_up
from mmvit_ext.machine import float32_products

__all__ = ['ADE20K', 'COCO', 'KINDS', 'Benchmark', 'CocoSplit', 'FinishedImages', 'image_folder', 'image_size']
__all__ += ['predict_missing', 'read_coco_split', 'split_of_images', 'write_archive']

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
_RESULT_KEYS = ('model', 'data_preprocessor', 'test_dataloader', 'test_pipeline', 'tta_model', 'tta_pipeline')
"""Entries of a config that decide what the model computes from an image."""
_PLACE_KEYS = ('data_root', 'ann_file', 'data_prefix', 'num_workers', 'persistent_workers', 'batch_size')
"""Entries inside them that do not."""


def _partial_folder(out: Path) -> Path:
    return out.with_name(f'{fit_name(out.name, room=8)}.partial')


def image_folder(folder: str | Path) -> Path:
    """The folder of the test images; raises ``UserError`` where it is none."""
    path = Path(os.path.expanduser(folder))
    if not path.is_dir():
        raise UserError(f'--images {path} is no folder: expected the folder with the test images')
    return path


class FinishedImages:
    """The folder ``OUT.partial`` with one file per finished image, from which a run of the same model resumes.

    It is refused where config, checkpoint or other ``options`` that the results depend on were others.
    """

    def __init__(self, out: Path, suffix: str, cfg: Config, checkpoint: str | Path, options: Mapping[str, Any]) -> None:
        self.folder, self.suffix = _partial_folder(out), suffix
        self.used: set[Path] = set()
        parts = json.dumps({key: _without_places(cfg.get(key)) for key in _RESULT_KEYS}, sort_keys=True, default=str)
        digest = hashlib.sha256(parts.encode()).hexdigest()
        wanted = {'checkpoint': sha256_of(checkpoint), 'config': digest, **options}
        record = self.folder / 'run.json'
        if self._left():
            try:
                found = dict(json.loads(record.read_text(encoding='utf-8')))
            except (OSError, TypeError, ValueError):  # it is gone or damaged
                found = {}
            differing = sorted(key for key in {*wanted, *found} if wanted.get(key) != found.get(key))
            if differing:
                fault = f'{self.folder} holds images that were finished with another {", ".join(differing)}'
                raise UserError(f'{fault}: repeat the earlier command to resume, or remove the folder to start again')
        else:
            with atomic_path(record) as file:
                file.write_text(json.dumps(wanted, indent=2), encoding='utf-8')

    def path(self, name: str) -> Path:
        """The file with the results of the image ``name`` (without suffix); it exists when the image is finished."""
        file = self.folder / 'images' / f'{name}{self.suffix}'
        self.used.add(file)
        return file

    def _left(self) -> bool:
        """Whether there are results of images."""
        return any((self.folder / 'images').glob(f'[!.]*{self.suffix}'))

    def remove(self) -> None:
        """Remove the files of :meth:`path`, and the record unless it still has to say whose images are left."""
        for file in self.used:
            file.unlink(missing_ok=True)
        with suppress(OSError):
            (self.folder / 'images').rmdir()
        if not self._left():
            (self.folder / 'run.json').unlink(missing_ok=True)


def _without_places(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _without_places(value) for key, value in node.items() if key not in _PLACE_KEYS}
    return [_without_places(entry) for entry in node] if isinstance(node, list | tuple) else node


def predict_missing(
    paths: Sequence[Path], finished: FinishedImages, write: Callable[[Path, Path], None], *, progress: bool = True
) -> Outcome:
    """Predict the images that are not finished yet; ``write`` takes an image and the file for its results."""
    names: dict[str, Path] = {}
    for path in paths:
        if names.setdefault(path.stem, path) is not path:
            raise UserError(f'{names[path.stem]} and {path} have the same name without suffix: remove one of them')
    done = sum(finished.path(path.stem).is_file() for path in paths)

    def work(path: Path, name: str) -> Path:
        target = finished.path(path.stem)
        if not target.is_file():
            with atomic_path(target) as file:
                write(path, file)
        return target

    title = f'predicting ({done} images were finished before)' if done else 'predicting'
    return process_images(paths, work, title, finished.folder, progress=progress)


def write_archive(path: Path, members: Iterable[tuple[str, Iterable[bytes]]]) -> None:
    """Write an archive whose bytes do not depend on the time of writing; members come in parts to save memory."""
    # A run that stopped between its two archives has left the first one, with the same bytes.
    with kept_files(), atomic_path(path) as temporary, zipfile.ZipFile(temporary, 'w') as archive:
        for name, parts in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            with archive.open(info, 'w', force_zip64=True) as stream:
                stream.writelines(parts)


class Benchmark(ABC):
    """A test set whose results go to a server: what it takes, and how a model's predictions become that."""

    name: str  # of the subcommand
    title: str
    scope: str  # of the configs
    suffix: str  # of the file with the results of an image

    @abstractmethod
    def plan(self, cfg: Config, folder: Path, out: Path, *, tta: bool) -> tuple[dict[str, Path], list[Path]]:
        """The archives by what they hold, and the images to predict; raises where config and name do not fit."""

    @abstractmethod
    def writer(self, predictor: Predictor) -> Callable[[Path, Path], None]:
        """What predicts an image and writes its results to a file; raises where the classes do not fit."""

    @abstractmethod
    def members(self, kind: str, archive: Path, files: Sequence[Path]) -> Iterable[tuple[str, Iterable[bytes]]]:
        """Name and content of the files in an archive, from the results of all images."""

    def submit(
        self,
        config: str | Path,
        checkpoint: str | Path,
        images: str | Path,
        out: str | Path,
        *,
        tta: bool = False,
        amp: bool = False,
        compile: bool = False,
        tf32: bool = True,
        device: str | None = None,
        cfg_options: Mapping[str, Any] | None = None,
        progress: bool = True,
        **options: bool,
    ) -> tuple[list[Path], Outcome]:
        """Predict the test images and write the archives for the server, which are returned with the outcome.

        ``options`` are ``allow_partial`` and ``trust`` of :class:`Predictor`. If images failed, no archive is written;
        the finished ones are kept, and the same call resumes.
        """
        cfg = load_config(config, cfg_options)
        if (scope := cfg.get('default_scope')) != self.scope:
            raise UserError(f'{config} is of scope {scope}: {self.title} needs a config of {self.scope}')
        target = Path(os.path.expanduser(out))
        archives, paths = self.plan(cfg, image_folder(images), target, tta=tta)
        if target.suffix != '.zip':
            raise UserError(f'--out {target}: expected a name that ends in .zip')
        writable_folder(target.parent, '--out, folder')
        # A run that stopped between its two archives has left the first one and the folder of finished images.
        for archive in () if _partial_folder(target).is_dir() else archives.values():
            if archive.exists():
                raise UserError(f'--out {archive} exists already: move it away, or choose another name')
        predictor = (TTAPredictor if tta else Predictor)(cfg, checkpoint, resolve_device(device), **options)
        speed_up(getattr(predictor.model, 'module', predictor.model), predictor.device, amp=amp, compile=compile)
        write = self.writer(predictor)
        how = {'benchmark': self.name, '--tta': tta, **({'--amp': amp} if amp else {})}
        folder = _partial_folder(target)
        try:
            with sole_use(folder, '--out'):
                finished = FinishedImages(target, self.suffix, cfg, checkpoint, how)
                with float32_products(tf32=tf32):
                    outcome = predict_missing(paths, finished, write, progress=progress)
                if not outcome.failed:
                    for content, archive in archives.items():
                        write_archive(archive, self.members(content, archive, outcome.written))
                    finished.remove()
        finally:
            with suppress(OSError):  # not empty
                folder.rmdir()
        return list(archives.values()), outcome


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
    content = read_lists(Path(os.path.expanduser(path)), '--annotations', 'images')
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

    Without ``annotations``, the image list of the split, all images of the folder are predicted, and their names are
    their ids. ``kind`` is 'bbox' or 'segm' for that archive only; by default all that the model predicts.
    """

    name, title, scope, suffix = 'coco', 'COCO detection', 'mmdet', '.json'

    def __init__(self, annotations: str | Path | None = None, kind: str | None = None) -> None:
        self.annotations, self.kind = annotations, kind
        self.split: CocoSplit

    def plan(self, cfg: Config, folder: Path, out: Path, *, tta: bool) -> tuple[dict[str, Path], list[Path]]:
        """The archive of each test type, named after it where there are two, and the images of the split."""
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
