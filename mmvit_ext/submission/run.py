"""Predict the images of a test set for an archive; an interrupted run keeps its finished images and resumes."""

import hashlib
import json
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmvit_ext.config.building import resolve_device
from mmvit_ext.config.loading import load_config
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import atomic_path, fit_name, kept_files, sha256_of, writable_folder
from mmvit_ext.inference.images import Outcome, process_images
from mmvit_ext.inference.predictor import Predictor, TTAPredictor

__all__ = ['Benchmark', 'FinishedImages', 'image_folder', 'predict_missing', 'write_archive']

_RESULT_KEYS = ('model', 'data_preprocessor', 'test_dataloader', 'test_pipeline', 'tta_model', 'tta_pipeline')
"""Entries of a config that decide what the model computes from an image."""
_PLACE_KEYS = ('data_root', 'ann_file', 'data_prefix', 'num_workers', 'persistent_workers', 'batch_size')
"""Entries inside them that do not."""


def _partial_folder(out: Path) -> Path:
    return out.with_name(f'{fit_name(out.name, room=8)}.partial')


def image_folder(folder: str | Path) -> Path:
    """The folder of the test images; raises ``UserError`` where it is none."""
    path = Path(folder).expanduser()
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
        if record.is_file() and any((self.folder / 'images').glob(f'[!.]*{suffix}')):
            try:
                found = dict(json.loads(record.read_text(encoding='utf-8')))
            except (TypeError, ValueError):  # it is damaged
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

    def remove(self) -> None:
        """Remove the files of :meth:`path` and the record, and the folders unless somebody else put something there."""
        for file in (*self.used, self.folder / 'run.json'):
            file.unlink(missing_ok=True)
        for folder in (self.folder / 'images', self.folder):
            with suppress(OSError):
                folder.rmdir()


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
        target = Path(out).expanduser()
        archives, paths = self.plan(cfg, image_folder(images), target, tta=tta)
        if target.suffix != '.zip':
            raise UserError(f'--out {target}: expected a name that ends in .zip')
        writable_folder(target.parent, '--out, folder')
        # A run that stopped between its two archives has left the first one and the folder of finished images.
        for archive in () if _partial_folder(target).is_dir() else archives.values():
            if archive.exists():
                raise UserError(f'--out {archive} exists already: move it away, or choose another name')
        predictor = (TTAPredictor if tta else Predictor)(cfg, checkpoint, resolve_device(device), **options)
        write = self.writer(predictor)
        finished = FinishedImages(target, self.suffix, cfg, checkpoint, {'benchmark': self.name, '--tta': tta})
        outcome = predict_missing(paths, finished, write, progress=progress)
        if not outcome.failed:
            for content, archive in archives.items():
                write_archive(archive, self.members(content, archive, outcome.written))
            finished.remove()
        return list(archives.values()), outcome
