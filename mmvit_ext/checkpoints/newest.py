"""Which checkpoint of a run to go on from: the newest one that can be loaded, whatever a kill did to the others."""

import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import is_remote

__all__ = [
    'NewestCheckpoint',
    'checkpoint_damage',
    'newest_checkpoint',
    'training_position',
]


@dataclass(frozen=True)
class NewestCheckpoint:
    """The answer of :func:`newest_checkpoint`.

    Args:
        path: The checkpoint, ``None`` when the run has not written one.
        iteration: The number of iterations it stands for, ``None`` when the file does not tell.
        passed_over: What is wrong with each newer one.
    """

    path: str | None
    iteration: int | None = None
    passed_over: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """What the user should know: which files were passed over, and how far back that is."""
        if not self.passed_over or self.path is None:
            return []
        at = '' if self.iteration is None else f' of iteration {self.iteration}'
        return [f'--resume: {"; ".join(self.passed_over)}; going on from the older {self.path}{at}']


class _Inert:
    """Stands in for every object of a pickle, so that reading it runs nothing of what the file names."""

    def __new__(cls, *_args: Any, **_options: Any) -> '_Inert':
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_options: Any) -> None:
        pass

    def __call__(self, *_args: Any, **_options: Any) -> '_Inert':
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """What a pickled list calls."""

    def extend(self, values: Any) -> None:
        """What a pickled list calls."""

    def add(self, value: Any) -> None:
        """What a pickled set calls."""


class _Outline(pickle.Unpickler):
    """Reads dictionaries, lists, numbers and texts of a pickle and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        return OrderedDict if (module, name) == ('collections', 'OrderedDict') else _Inert

    def persistent_load(self, pid: Any) -> Any:
        return _Inert()


def _outline(path: Path) -> Mapping[str, Any]:
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith('/data.pkl') or name == 'data.pkl')
        with archive.open(name) as file:
            content = _Outline(file).load()
    return content if isinstance(content, Mapping) else {}


def training_position(path: str | Path) -> int | None:
    """The iteration that a checkpoint of a training run stands for, without running code from it or reading tensors.

    Args:
        path: The file.

    Returns:
        The number of iterations, ``None`` when it holds no state of a training run (weights only, another format).

    Raises:
        Exception: The file is damaged; what exactly is raised depends on the damage.
    """
    content = _outline(Path(path))
    meta = content.get('meta')
    if 'optimizer' not in content or 'message_hub' not in content or not isinstance(meta, Mapping):
        return None
    iteration = meta.get('iter')
    return iteration if isinstance(iteration, int) else None


def checkpoint_damage(path: str | Path) -> str | None:
    """What is wrong with a checkpoint file, found by reading all of it once.

    Args:
        path: A file written by ``torch.save``.

    Returns:
        A phrase such as ``'is cut off'``, ``None`` for a sound file.
    """
    path = Path(path)
    try:
        if path.stat().st_size == 0:
            return 'is empty'
        with path.open('rb') as file:
            if file.read(4) != b'PK\x03\x04':
                return 'does not begin as a checkpoint does'
        if not zipfile.is_zipfile(path):
            return 'is cut off'
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            return f'is damaged (wrong checksum of {damaged})'
        _outline(path)
    except OSError as error:
        return f'cannot be read ({error.strerror or error})'
    except Exception as error:
        return f'is damaged ({type(error).__name__})'
    return None


def _named_by_run(name: str) -> bool:
    return name.startswith(('iter_', 'epoch_', 'preempted'))


def newest_checkpoint(work_dir: str | Path, more_folders: Iterable[str | Path] = ()) -> NewestCheckpoint:
    """The newest checkpoint of a run that can be loaded.

    Newest is the one of the highest iteration, not the one of the latest date: copying a folder changes dates. Only
    files that a run can go on from count, so the best checkpoint, which has no optimiser, does not.

    Args:
        work_dir: The run's folder, with ``last_checkpoint``.
        more_folders: Where else its checkpoints are, such as the checkpoint hook's ``out_dir``.

    Returns:
        The checkpoint, and what was wrong with newer ones.

    Raises:
        UserError: There are checkpoints and none of them can be loaded.
    """
    named = _last_checkpoint(Path(work_dir))
    if named is not None and (is_remote(named) or os.path.isdir(named)):
        return NewestCheckpoint(named)  # on a server, or the folder of a sharded model: only its library can tell
    folders = {Path(work_dir).resolve(): Path(work_dir)}
    for folder in (*more_folders, *([Path(named).parent] if named else [])):
        if not is_remote(str(folder)):
            folders.setdefault(Path(folder).resolve(), Path(folder))
    found: list[tuple[int, float, Path]] = []
    damaged: list[tuple[float, str]] = []
    for folder in folders.values():
        for path in sorted(path for path in folder.glob('*.pth') if path.is_file()):
            date = 0.0
            try:
                date = path.stat().st_mtime
                position = training_position(path)
            except FileNotFoundError:  # the run goes on elsewhere and has just removed it
                continue
            except Exception:
                if _named_by_run(path.name) or str(path) == named:
                    when = float('inf') if str(path) == named else date
                    damaged.append((when, f'{path} {checkpoint_damage(path) or "is damaged"}'))
                continue
            if position is not None:
                found.append((position, date, path))
    for position, date, path in sorted(found, reverse=True):
        damage = checkpoint_damage(path)
        if damage is None:
            # Of a file whose position cannot be read only the date tells whether it was newer.
            newer = tuple(text for when, text in damaged if when >= date)
            return NewestCheckpoint(str(path), position, newer)
        damaged.append((float('inf'), f'{path} {damage}'))
    if damaged:
        listed = '; '.join(text for _, text in damaged)
        raise UserError(
            f'--resume: no checkpoint in {work_dir} can be loaded: {listed}; copy one there, or leave --resume out to '
            'start from the beginning'
        )
    if named is not None:
        raise UserError(
            f'--resume: {Path(work_dir) / "last_checkpoint"} names {named}, which is not there or no checkpoint of a '
            'training run: put it there, or leave --resume out to start from the beginning'
        )
    return NewestCheckpoint(None)


def _last_checkpoint(work_dir: Path) -> str | None:
    try:
        return (work_dir / 'last_checkpoint').read_text().strip() or None
    except (OSError, UnicodeDecodeError):
        return None
