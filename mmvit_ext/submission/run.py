"""Predicting the images of a test set into an archive: finished images are kept when the run is interrupted."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mmengine.config import Config

from mmvit_ext.config.building import resolve_device
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import atomic_path, sha256_of, writable_folder
from mmvit_ext.inference.images import Outcome, process_images
from mmvit_ext.inference.predictor import Predictor
from mmvit_ext.inference.tta import TTAPredictor

__all__ = [
    'FinishedImages',
    'check_absent',
    'check_target',
    'image_folder',
    'load_predictor',
    'open_member',
    'partial_folder',
    'predict_missing',
]


def partial_folder(out: Path) -> Path:
    """Where finished images are kept until the archive is written.

    Args:
        out: The archive.

    Returns:
        The folder.
    """
    return out.with_name(f'{out.name}.partial')


def check_target(out: str | Path) -> Path:
    """Refuse a place for the archive that would waste a run.

    Args:
        out: Where the archive is to be written.

    Returns:
        The path.

    Raises:
        UserError: The name does not end in .zip, or its folder cannot be written to.
    """
    path = Path(out).expanduser()
    if path.suffix != '.zip':
        raise UserError(f'--out {path}: expected a name that ends in .zip')
    writable_folder(path.parent, '--out, folder')
    return path


def check_absent(archives: Iterable[Path], out: Path) -> None:
    """Refuse to write over an archive, but for one of the run that is going on.

    Args:
        archives: What is to be written.
        out: The archive that was asked for.

    Raises:
        UserError: There is one.
    """
    # A run that was stopped between its two archives has left the first, and the folder of its images.
    if partial_folder(out).is_dir():
        return
    for archive in archives:
        if archive.exists():
            raise UserError(f'--out {archive} exists already: move it away, or choose another name')


def image_folder(folder: str | Path) -> Path:
    """The folder of the test images.

    Args:
        folder: What was given.

    Returns:
        The path.

    Raises:
        UserError: It is no folder.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise UserError(f'--images {path} is no folder: expected the folder that the test images lie in')
    return path


def load_predictor(
    cfg: Config, checkpoint: str | Path, *, tta: bool, device: str | None, allow_partial: bool, trust: bool
) -> Predictor:
    """The trained model.

    Args:
        cfg: The config of the training run.
        checkpoint: The checkpoint file.
        tta: Whether to merge several views of each image, as the config says.
        device: Where to run, see :func:`mmvit_ext.config.building.resolve_device`.
        allow_partial: Go on when the checkpoint does not fit the model.
        trust: Read a checkpoint that holds more than tensors with pickle, which runs code from it.

    Returns:
        The model with its test pipeline.

    Raises:
        UserError: Config and checkpoint are wrong or do not belong together.
    """
    kind = TTAPredictor if tta else Predictor
    return kind(cfg, checkpoint, resolve_device(device), allow_partial=allow_partial, trust=trust)


class FinishedImages:
    """A folder beside the archive with a file per finished image; a run of the same model goes on from it.

    Args:
        out: The archive; the folder is ``OUT.partial``.
        suffix: Of the files, with its point.
        cfg: The config of the model.
        checkpoint: The checkpoint file.
        options: What else decides about the results.

    Raises:
        UserError: The folder is another run's.
    """

    def __init__(self, out: Path, suffix: str, cfg: Config, checkpoint: str | Path, options: Mapping[str, Any]) -> None:
        self.folder = partial_folder(out)
        self.suffix = suffix
        wanted = {'checkpoint': sha256_of(checkpoint), 'config': _config_digest(cfg), **options}
        record = self.folder / 'run.json'
        if record.is_file() and any((self.folder / 'images').glob(f'[!.]*{suffix}')):
            found = json.loads(record.read_text(encoding='utf-8'))
            differing = sorted(key for key in {*wanted, *found} if wanted.get(key) != found.get(key))
            if differing:
                raise UserError(
                    f'{self.folder} holds images that were finished with another {", ".join(differing)}: run the same '
                    'command as then to go on, or remove the folder to start again'
                )
        else:
            with atomic_path(record) as file:
                file.write_text(json.dumps(wanted, indent=2), encoding='utf-8')

    def path(self, name: str) -> Path:
        """Where the results of an image belong.

        Args:
            name: The image's name without suffix.

        Returns:
            The file; it exists when the image is finished.
        """
        return self.folder / 'images' / f'{name}{self.suffix}'

    def remove(self) -> None:
        """Remove the folder; the archive is written."""
        shutil.rmtree(self.folder)


def predict_missing(
    paths: Sequence[Path],
    finished: FinishedImages,
    write: Callable[[Path, Path], None],
    *,
    progress: bool = True,
) -> Outcome:
    """Predict the images that are not finished yet.

    Args:
        paths: The images of the test set, with names that differ without their suffix.
        finished: Those that are done.
        write: Takes an image and the file that its results are written to.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The finished files, those of an earlier run included, and the images that failed.

    Raises:
        UserError: Two images have the same name.
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


@contextmanager
def open_member(archive: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
    """Open a new file in an archive for writing.

    Args:
        archive: The archive.
        name: The file's name in it.

    Returns:
        The stream. Nothing in the archive depends on when it was written.
    """
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    with archive.open(info, 'w', force_zip64=True) as stream:
        yield stream


def _config_digest(cfg: Config) -> str:
    """Of what the model computes from an image; folders and schedules may differ."""
    keys = ('model', 'data_preprocessor', 'test_dataloader', 'test_pipeline', 'tta_model', 'tta_pipeline')
    parts = {key: _without_folders(cfg.get(key)) for key in keys}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _without_folders(node: Any) -> Any:
    if isinstance(node, Mapping):
        skipped = ('data_root', 'ann_file', 'data_prefix', 'num_workers', 'persistent_workers', 'batch_size')
        return {key: _without_folders(value) for key, value in node.items() if key not in skipped}
    if isinstance(node, list | tuple):
        return [_without_folders(entry) for entry in node]
    return node
