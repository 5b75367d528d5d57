"""Image files given to a command: find them, name their results, work through them."""

import glob
import itertools
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmvit_ext.errors import EXIT_BAD_INPUT, say
from mmvit_ext.errors.failures import describe_failure
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import ExistingFileError, fit_name, sole_use
from mmvit_ext.machine import progress_bar

__all__ = ['Outcome', 'collect_images', 'output_names', 'process_images', 'report_failures']

SUFFIXES = ('.bmp', '.gif', '.jfif', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp')


@dataclass
class Outcome:
    """Pictures that were written, image and reason of each failure, and the traceback of the first unknown one."""

    written: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    unknown: str | None = None


def collect_images(inputs: Iterable[str | Path]) -> list[Path]:
    """The image files that files, folders and patterns name, each once, in the order given; of folders, sorted."""
    found: dict[str, Path] = {}
    for entry in inputs:
        path = Path(os.path.expanduser(entry))
        if path.is_dir():
            members = sorted(member for member in path.iterdir() if _is_image(member))
            if not members:
                remedy = f'name another folder, or its subfolders with the pattern "{path}/**/*.jpg"'
                raise UserError(f'there is no image in the folder {path} (looked for {" ".join(SUFFIXES)}): {remedy}')
        elif path.is_file():
            members = [path]
        elif path.exists():  # reading a pipe would wait for ever, reading a device never end
            raise UserError(f'{path} is not a regular file: expected an image, a folder or a pattern')
        elif glob.has_magic(str(entry)):
            matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
            members = [match for match in matches if _is_image(match)]
            if not members:
                raise UserError(f'no image matches the pattern {entry}: check it, and write it in quotes')
        else:
            raise UserError(f'there is no image or folder {path}: check the path')
        for member in members:
            found.setdefault(os.path.realpath(member), member)
    return list(found.values())


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in SUFFIXES and not path.name.startswith('.')


def output_names(paths: Sequence[Path], room: int = 4) -> list[str]:
    """A name for the results of each image, its stem where that is unique, with ``room`` bytes left for a suffix."""
    count = Counter(path.stem.lower() for path in paths)
    # A stem that is unique keeps its name, also against the made-up names of the others.
    taken = {stem for stem, number in count.items() if number == 1}
    names = []
    for path in paths:
        name = path.stem
        if count[name.lower()] > 1:
            base = f'{path.stem}_{path.suffix.lstrip(".")}'
            numbered = (f'{base}_{number}' for number in itertools.count(2))
            name = next(name for name in itertools.chain([base], numbered) if name.lower() not in taken)
            taken.add(name.lower())
        names.append(fit_name(name, room))
    return names


def process_images(
    paths: Sequence[Path],
    work: Callable[[Path, str], Path],
    title: str,
    folder: Path,
    *,
    room: int = 4,
    progress: bool = True,
) -> Outcome:
    """Do the same with each image; one bad image does not keep the others from being done.

    ``work`` takes an image and the name of its results, and returns the file it wrote in ``folder``.
    """
    outcome = Outcome()
    with sole_use(folder, '--out'), progress_bar(title, show=progress) as bar:
        for path, name in zip(bar.track(paths), output_names(paths, room), strict=True):
            try:
                outcome.written.append(work(path, name))
            except ExistingFileError:
                raise
            except Exception as error:
                reason = describe_failure(error)
                if reason is None:
                    outcome.unknown = outcome.unknown or traceback.format_exc()
                    reason = f'{type(error).__name__}: {" ".join(str(error).split())}'
                outcome.failed.append((path, reason))
    return outcome


def report_failures(outcome: Outcome, name: str) -> int:
    """List failed images on stderr, after the command's name; the exit code is 1 if a reason is unknown, else 2."""
    if not outcome.failed:
        return 0
    say(f'{name}: error: {len(outcome.failed)} images failed:', sys.stderr)
    for path, reason in outcome.failed:
        say(f'  {path}: {reason}', sys.stderr)
    if outcome.unknown:
        print(outcome.unknown, file=sys.stderr)
        return 1
    return EXIT_BAD_INPUT
