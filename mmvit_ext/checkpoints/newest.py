"""Choose the checkpoint that a run resumes from: the newest one of this run that can be loaded.

A path that stands in a file is never followed: a note in a copied folder names the original's checkpoints.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import is_remote, regular_file

from .formats import read_outline
from .reading import checkpoint_damage

__all__ = ['RUN_ID', 'NewestCheckpoint', 'may_be_of_run', 'newest_checkpoint', 'training_position']

RUN_ID = 'run_id'  # key in ``meta`` of a checkpoint, and the file in ``work_dir`` with the id of the latest run there
_OWN_NAME = re.compile(r'(?:iter|epoch)_\d+\.pth|preempted\.pth')


class NewestCheckpoint(NamedTuple):
    """The answer of :func:`newest_checkpoint`."""

    path: str | None  # None when the run has not written one
    iteration: int | None = None  # None when the file does not state it
    passed_over: tuple[str, ...] = ()  # what is wrong with each newer one
    has_id: bool = True

    def notes(self) -> list[str]:
        """Which newer files were passed over, how far back the chosen one is, and whether its run is not known."""
        notes = []
        if self.passed_over and self.path is not None:
            at = '' if self.iteration is None else f' of iteration {self.iteration}'
            notes = [f'--resume: {"; ".join(self.passed_over)}; resuming from the older {self.path}{at}']
        if not self.has_id:
            notes.append(f'--resume: {self.path} has no id of its run (of another version), it is taken by its name')
        return notes


class _Candidate(NamedTuple):
    """A checkpoint of training; they sort by what ``--resume`` prefers."""

    named: bool  # as the checkpoint hook names files
    has_id: bool
    iteration: int
    date: float
    path: Path
    run: str | None


def training_position(path: str | Path) -> tuple[int, str | None] | None:
    """Iteration and run of a training run's checkpoint, without reading tensors; ``None`` for weights alone."""
    content = read_outline(Path(path))
    meta = content.get('meta')
    if 'optimizer' not in content or 'message_hub' not in content or not isinstance(meta, Mapping):
        return None
    iteration = meta.get('iter')
    return (iteration, _run_of(meta)) if isinstance(iteration, int) else None


def _run_of(meta: Any) -> str | None:
    run = meta.get(RUN_ID) if isinstance(meta, Mapping) else None
    return run if isinstance(run, str) and run else None


def may_be_of_run(path: str | Path, run: str) -> bool:
    """Whether a checkpoint, of weights alone or of training, has this run's id or none that can be read."""
    try:
        return _run_of(read_outline(Path(path)).get('meta')) in (None, run)
    except Exception:  # cut off, or of another format
        return True


def _text(path: Path) -> str:
    return regular_file(path, 'note', 'remove it').read_text(errors='replace')[:4096].strip() if path.exists() else ''


def newest_checkpoint(
    work_dir: str | Path, more_folders: Iterable[str | Path] = (), *, restarted: bool = False
) -> NewestCheckpoint:
    """The checkpoint of the latest run of a folder that can be loaded and has the highest iteration.

    Copying changes dates, so they do not count, nor do files without an optimiser. The folder's file ``run_id`` tells
    the run, or the checkpoint that ``last_checkpoint`` names, or all together. Files that the hook would name otherwise
    come last, and without an id not at all. ``more_folders`` are where else checkpoints are; ``restarted`` says that
    the launcher started the run again, which may not have saved anything yet.
    """
    note, listed = Path(work_dir) / 'last_checkpoint', [str(work_dir), *map(str, more_folders)]
    noted = _text(note)
    name = os.path.basename(noted)
    advice = 'pass --resume FILE if it is to continue from there, or leave --resume out to start from the beginning'
    folders = list({Path(folder).resolve(): Path(folder) for folder in listed if not is_remote(folder)}.values())
    # On a server, or the folder of a sharded model: only its library can read it.
    if is_remote(noted) and noted not in [f'{folder.rstrip("/")}/{name}' for folder in listed]:
        raise UserError(f'--resume: {note} names {noted}, which is not in the folder of this run: {advice}')
    sharded = [str(folder / name) for folder in folders if _OWN_NAME.fullmatch(name) and (folder / name).is_dir()]
    if is_remote(noted) or sharded:
        return NewestCheckpoint(noted if is_remote(noted) else sharded[0])
    found, damaged = _look_into(folders, name)
    run = _text(Path(work_dir) / RUN_ID) or _latest_run(found, name, advice)
    ours = [candidate for candidate in found if (candidate.run == run if candidate.has_id else candidate.named)]
    for candidate in sorted(ours, reverse=True):
        damage = checkpoint_damage(candidate.path)
        if damage is None:
            # Where a position cannot be read, only the date shows whether the file is newer.
            newer = tuple(text for when, text in damaged if when >= candidate.date)
            return NewestCheckpoint(str(candidate.path), candidate.iteration, newer, candidate.has_id)
        damaged.append((float('inf'), f'{candidate.path} {damage}'))
    if damaged:
        fault = f'no checkpoint in {work_dir} can be loaded: {"; ".join(text for _, text in damaged)}'
        raise UserError(f'--resume: {fault}; copy one there, or leave --resume out to start from the beginning')
    if found and not restarted:
        others = ', '.join(str(candidate.path) for candidate in sorted(found, reverse=True)[:3])
        raise UserError(f'--resume: no checkpoint of this run is in {work_dir}, {others} is of another one: {advice}')
    if noted and not found:
        fault = f'{note} names {noted}, and {name} is not there or no checkpoint of a training run'
        raise UserError(f'--resume: {fault}: put it into {work_dir}, or {advice}')
    return NewestCheckpoint(None)


def _look_into(folders: Iterable[Path], noted_name: str) -> tuple[list[_Candidate], list[tuple[float, str]]]:
    """The checkpoints of training in the folders, and date and description of those that cannot be read."""
    found: list[_Candidate] = []
    damaged: list[tuple[float, str]] = []
    noted_kind = re.compile(re.sub(r'\d+', r'\\d+', re.escape(noted_name)))  # the hook's filename_tmpl may be another
    for path in [path for folder in folders for path in sorted(folder.glob('*.pth')) if path.is_file()]:
        date, named = 0.0, bool(_OWN_NAME.fullmatch(path.name) or noted_kind.fullmatch(path.name))
        try:
            date = path.stat().st_mtime
            position = training_position(path)
        except FileNotFoundError:  # the run continues elsewhere and has just removed it
            continue
        except Exception:
            if named:
                when = float('inf') if path.name == noted_name else date
                damaged.append((when, f'{path} {checkpoint_damage(path) or "is damaged"}'))
            continue
        if position is not None:
            iteration, run = position
            found.append(_Candidate(named, run is not None, iteration, date, path, run))
    return found, damaged


def _latest_run(found: Iterable[_Candidate], noted_name: str, advice: str) -> str | None:
    """The id of the run whose checkpoint was noted as the last one, or the only id that there is."""
    runs = {candidate.path.name: candidate.run for candidate in found if candidate.run}
    if noted_name in {candidate.path.name for candidate in found}:
        return runs.get(noted_name)
    if len(set(runs.values())) > 1:
        raise UserError(f'--resume: {", ".join(sorted(runs))} are of different runs: {advice}')
    return next(iter(runs.values()), None)
