"""Predict the images of a test set for an archive; an interrupted run keeps its finished images and resumes."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmvit_ext.config.building import resolve_device
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import atomic_path, sha256_of, writable_folder
from mmvit_ext.inference.images import Outcome, process_images
from mmvit_ext.inference.predictor import Predictor
from mmvit_ext.inference.tta import TTAPredictor

__all__ = ['FinishedImages', 'check_targets', 'image_folder', 'load_predictor', 'predict_missing', 'write_archive']

_RESULT_KEYS = ('model', 'data_preprocessor', 'test_dataloader', 'test_pipeline', 'tta_model', 'tta_pipeline')
"""Entries of a config that decide what the model computes from an image."""
_PLACE_KEYS = ('data_root', 'ann_file', 'data_prefix', 'num_workers', 'persistent_workers', 'batch_size')
"""Entries inside them that do not."""


def _partial_folder(out: Path) -> Path:
    return out.with_name(f'{out.name}.partial')


def check_targets(out: Path, archives: Iterable[Path]) -> None:
    """Refuse the archives that ``out`` leads to where they could not be written, before anything is predicted."""
    if out.suffix != '.zip':
        raise UserError(f'--out {out}: expected a name that ends in .zip')
    writable_folder(out.parent, '--out, folder')
    # A run that stopped between its two archives has left the first one and the folder of finished images.
    for archive in () if _partial_folder(out).is_dir() else archives:
        if archive.exists():
            raise UserError(f'--out {archive} exists already: move it away, or choose another name')


def image_folder(folder: str | Path) -> Path:
    """The folder of the test images; raises ``UserError`` where it is none."""
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise UserError(f'--images {path} is no folder: expected the folder with the test images')
    return path


def load_predictor(
    cfg: Config, checkpoint: str | Path, *, tta: bool, device: str | None, allow_partial: bool, trust: bool
) -> Predictor:
    """Load the trained model with its test pipeline; the arguments are those of the commands."""
    kind = TTAPredictor if tta else Predictor
    return kind(cfg, checkpoint, resolve_device(device), allow_partial=allow_partial, trust=trust)


class FinishedImages:
    """The folder ``OUT.partial`` with one file per finished image, from which a run of the same model resumes.

    Args:
        out: The archive.
        suffix: Suffix of the files, with its point.
        cfg: The config of the model.
        checkpoint: The checkpoint file.
        options: What else the results depend on; a folder of another run is refused.
    """

    def __init__(self, out: Path, suffix: str, cfg: Config, checkpoint: str | Path, options: Mapping[str, Any]) -> None:
        self.folder, self.suffix = _partial_folder(out), suffix
        wanted = {'checkpoint': sha256_of(checkpoint), 'config': _config_digest(cfg), **options}
        record = self.folder / 'run.json'
        if record.is_file() and any((self.folder / 'images').glob(f'[!.]*{suffix}')):
            found = json.loads(record.read_text(encoding='utf-8'))
            differing = sorted(key for key in {*wanted, *found} if wanted.get(key) != found.get(key))
            if differing:
                raise UserError(
                    f'{self.folder} holds images that were finished with another {", ".join(differing)}: repeat the '
                    'earlier command to resume, or remove the folder to start again'
                )
        else:
            with atomic_path(record) as file:
                file.write_text(json.dumps(wanted, indent=2), encoding='utf-8')

    def path(self, name: str) -> Path:
        """The file with the results of the image ``name`` (without suffix); it exists when the image is finished."""
        return self.folder / 'images' / f'{name}{self.suffix}'

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)


def predict_missing(
    paths: Sequence[Path], finished: FinishedImages, write: Callable[[Path, Path], None], *, progress: bool = True
) -> Outcome:
    """Predict the images that are not finished yet; ``write`` takes an image and the file for its results.

    No two images may have the same name without suffix. The outcome includes the files of an earlier run.
    """
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
    return process_images(paths, work, title, progress=progress)


def write_archive(path: Path, members: Iterable[tuple[str, Iterable[bytes]]]) -> None:
    """Write an archive whose bytes do not depend on the time of writing; members come in parts to save memory."""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, 'w') as archive:
        for name, parts in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            with archive.open(info, 'w', force_zip64=True) as stream:
                for part in parts:
                    stream.write(part)


def _config_digest(cfg: Config) -> str:
    parts = {key: _without_places(cfg.get(key)) for key in _RESULT_KEYS}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _without_places(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _without_places(value) for key, value in node.items() if key not in _PLACE_KEYS}
    if isinstance(node, list | tuple):
        return [_without_places(entry) for entry in node]
    return node
