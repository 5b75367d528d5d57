"""Explain images one after another with one method: results of each image, and the page of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmvit_ext.config.building import resolve_device
from mmvit_ext.config.loading import load_config
from mmvit_ext.errors.type_names import nearest
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import kept_files, writable_folder
from mmvit_ext.inference.images import Outcome, collect_images, process_images
from mmvit_ext.inference.predictor import Predictor
from mmvit_ext.models.classifiers.cam_classifier import RIVALS

from .inputs import OpenedImage
from .report import Entry, Explanation, encode_thumbnail, write_facts, write_page

__all__ = ['MAX_CELL', 'Explainer', 'check_cell', 'choose_rivals', 'choose_shown', 'explain_images', 'find_classes']

MAX_CELL = 4096  # a sheet of larger pictures would take gigabytes


@dataclass(frozen=True)
class Explainer:
    """A method, ready to explain images with one model; the functions ``explain_*`` check the options and return it."""

    title: str  # what it shows, the heading of the page
    legend: str  # a few sentences on how its pictures are read
    explain: Callable[[OpenedImage, str], Explanation]  # of an image and the name of its results
    overall: Callable[[], Explanation | None] = lambda: None  # of all images together, asked for at the end
    settings: Mapping[str, Any] = field(default_factory=dict)  # what was chosen, for the page


def check_cell(edge: int) -> None:
    """Refuse pictures of a sheet that are too small to see or too large to hold."""
    if not 16 <= edge <= MAX_CELL:
        raise UserError(f'--size must be 16 to {MAX_CELL} pixels, got {edge}')


def find_classes(wanted: Sequence[str | int], classes: Sequence[str], *, numbers: bool = False) -> tuple[int, ...]:
    """Indices of classes that a user names, in any case, or with ``numbers`` numbers from 0; each once, as given."""

    def plain(name: str) -> str:
        return ' '.join(name.split()).casefold()

    known = {plain(name): index for index, name in reversed([*enumerate(classes)])}  # the first of equal names counts
    found: dict[int, None] = {}
    for name in map(str, wanted):
        index = known.get(plain(name), -1)
        if index < 0 and numbers and name.strip().lstrip('+-').isdecimal():
            index = int(name)
            if not 0 <= index < len(classes):
                wanted = f'expected 0 to {len(classes) - 1} or a name'
                raise UserError(f'there is no class {index}, this model has {len(classes)}: {wanted}')
        if index < 0:
            near = nearest(name.strip(), [entry.strip() for entry in classes])
            hint = f'did you mean {" or ".join(map(repr, near))}?' if near else 'names with spaces need quotes'
            raise UserError(f"--classes '{name}' is none of the {len(classes)} classes of this model: {hint}")
        found[index] = None
    return tuple(found)


def choose_shown(
    classes: Sequence[str | int] | None,
    top: int | None,
    known: Sequence[str],
    order: str,
    default: int,
    *,
    numbers: bool = True,
) -> tuple[tuple[int, ...] | None, int]:
    """The indices of the classes that are named, and how many are taken of each image if none are, by an ``order``."""
    if top is not None and top < 1:
        raise UserError(f'--top must be at least 1, got {top}')
    if top is not None and classes is not None:
        raise UserError(f'--top is for the {order} classes and --classes for named ones: leave one of them out')
    chosen = None if classes is None else find_classes(classes, known, numbers=numbers)
    return chosen, default if top is None else top


def choose_rivals(rivals: int | None, classes: Sequence[str]) -> int:
    """How many of the strongest other classes are subtracted: the usual number, or all others, when not given."""
    highest = len(classes) - 1
    rivals = min(RIVALS, highest) if rivals is None else rivals
    if not 0 <= rivals <= highest:
        raise UserError(f'--rivals must be 0 to {highest}, got {rivals}')
    return rivals


def explain_images(
    method: str,
    config: str | Path,
    checkpoint: str | Path,
    inputs: Iterable[str | Path],
    out: str | Path,
    make: Callable[[Predictor, Path, int], Explainer],
    *,
    device: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    allow_partial: bool = False,
    trust: bool = False,
    force: bool = False,
    progress: bool = True,
) -> Outcome:
    """Explain images and write a page about them; one bad image does not keep the others from being done.

    ``make`` takes the model, the folder ``out/METHOD`` and the number of images. ``out`` gets ``METHOD.html``, below
    ``METHOD/`` what the method writes and the facts about each image, and ``METHOD.json`` with those about all.
    """
    cfg = load_config(config, cfg_options)
    paths = collect_images(inputs)
    base = writable_folder(out, '--out')
    folder = writable_folder(base / method, '--out')
    predictor = Predictor(cfg, checkpoint, resolve_device(device), allow_partial=allow_partial, trust=trust)
    explainer = make(predictor, folder, len(paths))
    entries: list[Entry] = []

    def with_facts(found: Explanation, target: Path) -> Explanation:
        return Explanation(found.pictures, found.facts, (*found.data, write_facts(found.facts, target)))

    def work(path: Path, name: str) -> Path:
        opened = OpenedImage(predictor, path)
        found = with_facts(explainer.explain(opened, name), folder / f'{name}.json')
        entries.append(Entry(name, path, encode_thumbnail(opened.image), found))
        return Path(found.pictures[0][1])

    page = base / f'{method}.html'
    with kept_files([*paths, config, checkpoint], [page], force=force):
        outcome = process_images(paths, work, f'explaining ({method})', folder, room=64, progress=progress)
        if entries:
            overall = explainer.overall()
            overall = overall and with_facts(overall, base / f'{method}.json')
            run = {'config': str(config), 'checkpoint': str(checkpoint)}
            if cfg_options:
                run['overrides'] = ', '.join(f'{key}={value}' for key, value in cfg_options.items())
            run |= explainer.settings
            shown: dict[str, Any] = {'overall': overall, 'failed': outcome.failed, 'legend': explainer.legend}
            write_page(page, explainer.title, entries, run=run, **shown)
    return outcome
