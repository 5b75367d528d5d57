"""Choose the checkpoint that a run resumes from: the newest one that can be loaded."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import is_remote

from .reading import checkpoint_damage
from .unpickling import read_outline

__all__ = ['NewestCheckpoint', 'newest_checkpoint', 'training_position']


@dataclass(frozen=True)
class NewestCheckpoint:
    """The answer of :func:`newest_checkpoint`."""

    path: str | None  # None when the run has not written one
    iteration: int | None = None  # None when the file does not state it
    passed_over: tuple[str, ...] = ()  # what is wrong with each newer one

    def notes(self) -> list[str]:
        """Which newer files were passed over, and how far back the chosen one is."""
        if not self.passed_over or self.path is None:
            return []
        at = '' if self.iteration is None else f' of iteration {self.iteration}'
        return [f'--resume: {"; ".join(self.passed_over)}; resuming from the older {self.path}{at}']


def training_position(path: str | Path) -> int | None:
    """The iteration of a training run's checkpoint, without reading tensors; ``None`` for weights alone.

    Raises:
        Exception: The file is damaged; what exactly is raised depends on the damage.
    """
    content = read_outline(Path(path))
    meta = content.get('meta')
    if 'optimizer' not in content or 'message_hub' not in content or not isinstance(meta, Mapping):
        return None
    iteration = meta.get('iter')
    return iteration if isinstance(iteration, int) else None


def newest_checkpoint(work_dir: str | Path, more_folders: Iterable[str | Path] = ()) -> NewestCheckpoint:
    """The newest checkpoint of a run that can be loaded.

    Newest is the one of the highest iteration, not the one of the latest date: copying a folder changes dates. Only
    files that a run can resume from count, so the best checkpoint, which has no optimiser, does not.

    Args:
        work_dir: The run's folder, with ``last_checkpoint``.
        more_folders: Where else its checkpoints are, such as the checkpoint hook's ``out_dir``.

    Raises:
        UserError: There are checkpoints and none of them can be loaded.
    """
    try:
        named = (Path(work_dir) / 'last_checkpoint').read_text().strip()
    except (OSError, UnicodeDecodeError):
        named = ''
    if named and (is_remote(named) or os.path.isdir(named)):
        return NewestCheckpoint(named)  # on a server, or the folder of a sharded model: only its library can read it
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
            except FileNotFoundError:  # the run continues elsewhere and has just removed it
                continue
            except Exception:
                if path.name.startswith(('iter_', 'epoch_', 'preempted')) or str(path) == named:
                    when = float('inf') if str(path) == named else date
                    damaged.append((when, f'{path} {checkpoint_damage(path) or "is damaged"}'))
                continue
            if position is not None:
                found.append((position, date, path))
    for position, date, path in sorted(found, reverse=True):
        damage = checkpoint_damage(path)
        if damage is None:
            # Where a position cannot be read, only the date shows whether the file is newer.
            newer = tuple(text for when, text in damaged if when >= date)
            return NewestCheckpoint(str(path), position, newer)
        damaged.append((float('inf'), f'{path} {damage}'))
    if damaged:
        listed = '; '.join(text for _, text in damaged)
        raise UserError(
            f'--resume: no checkpoint in {work_dir} can be loaded: {listed}; copy one there, or leave --resume out to '
            'start from the beginning'
        )
    if named:
        raise UserError(
            f'--resume: {Path(work_dir) / "last_checkpoint"} names {named}, which is not there or no checkpoint of a '
            'training run: put it there, or leave --resume out to start from the beginning'
        )
    return NewestCheckpoint(None)
