"""The walk over a config's datasets on which all checks stand, and what a check of every sample reports of them.

Each dataset is built without loading its annotations, which is cheap and yields the paths and class names that it will
really use, defaults of its class included. A missing folder is then reported before the model is built.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS

from mmvit_ext.config.walking import iter_dataset_cfgs
from mmvit_ext.errors.failures import describe_failure
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import atomic_path, is_remote, regular_file

__all__ = ['DatasetReport', 'Finding', 'VisitedDataset', 'check_samples', 'visit_datasets', 'write_fix_list']

_NAME_WIDTH = 32  # ImageNet's names list synonyms


@dataclass
class VisitedDataset:
    """A dataset of a config, and what was found out about it."""

    key: str  # its dotted key in the config
    config: Mapping[str, Any]
    built: Any = None  # without its annotations; None for a class that cannot be built so
    images: int | None = None  # None when they were not counted
    unlabelled: list[str] = field(default_factory=list)  # images without an annotation

    @property
    def local(self) -> bool:
        """Whether its files are on a disk of this machine."""
        backend = (self.config.get('backend_args') or {}).get('backend', 'local')
        root = self.config.get('data_root')
        return backend in ('local', 'disk') and not (isinstance(root, str) and is_remote(root))

    @property
    def ann_file(self) -> str:
        """Its annotation file, empty where it has none."""
        ann_file = getattr(self.built, 'ann_file', '')
        return ann_file if isinstance(ann_file, str) else ''

    @property
    def folders(self) -> dict[str, Any]:
        """Its folders by the name of their entry in ``data_prefix``."""
        prefixes = getattr(self.built, 'data_prefix', None)
        return dict(prefixes) if isinstance(prefixes, Mapping) else {}

    @property
    def classes(self) -> Sequence[str] | None:
        """Its class names, ``None`` where they are known only after loading."""
        return (getattr(self.built, 'metainfo', None) or {}).get('classes')

    @property
    def loads_labels(self) -> bool:
        """Whether its pipeline loads annotations."""
        steps = getattr(getattr(self.built, 'pipeline', None), 'transforms', None) or []
        return any('Annotations' in type(step).__name__ for step in steps)

    def load_samples(self) -> list[dict[str, Any]]:
        """List all samples, at least one, without loading their images."""
        source = self.ann_file or ', '.join(str(folder) for folder in self.folders.values() if folder) or 'its folder'
        try:
            samples = list(self.built.load_data_list())
        except UserError:
            raise
        except Exception as error:
            reason = f'{type(error).__name__}: {" ".join(str(error).split())}'
            fault = f'the annotations of {self.key} ({source}) cannot be read: {reason}'
            raise UserError(f'{fault}; check that they are of the format that the dataset class expects') from error
        if not samples:
            suffix = getattr(self.built, 'img_suffix', None)
            kind = f' ending in {suffix}' if suffix and not self.ann_file else ''
            remedy = 'check data_root, data_prefix, ann_file and the file names'
            raise UserError(f'the dataset {self.key} has no image{kind} in {source}: {remedy}')
        return samples

    def __str__(self) -> str:
        parts = [] if self.images is None else [f'{self.images} images', f'{len(self.unlabelled)} without annotation']
        parts += [] if self.classes is None else [f'{len(self.classes)} classes']
        return f'{self.key}: {", ".join(parts) or "not examined"}'


def visit_datasets(cfg: Config, splits: Iterable[str]) -> Iterator[VisitedDataset]:
    """Build the datasets of dataloaders (inside of wrappers) without their annotations, and look for their paths.

    The config's scope has to be prepared. ``UserError`` for a missing folder or file names the key to change.
    """
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if isinstance(loader, Mapping):
            for key, config in iter_dataset_cfgs(loader.get('dataset'), f'{split}_dataloader.dataset'):
                yield _visit(key, config)


def _visit(key: str, config: Mapping[str, Any]) -> VisitedDataset:
    dataset = VisitedDataset(key, config)
    root = config.get('data_root')
    if dataset.local and isinstance(root, str) and root and not os.path.isdir(root):
        remedy = 'put the data there or set data_root to where it is'
        raise UserError(f'the dataset folder {root} ({key}.data_root) does not exist: {remedy}')
    for place, entries in ((f'{key}.metainfo', config.get('metainfo') or {}), (key, config)):
        names = entries.get('classes')
        if isinstance(names, str) and not is_remote(names) and not os.path.isfile(os.path.expanduser(names)):
            remedy = f'write a tuple, also for one class, ({names!r},)'
            raise UserError(f'{place}.classes is the text {names!r}, which is no file: {remedy}')
    dataset.built = _build(dataset)
    if dataset.local:
        _check_paths(dataset.folders, dataset.ann_file, key)
    return dataset


def _build(dataset: VisitedDataset) -> Any:
    config, key = dataset.config, dataset.key
    try:
        return DATASETS.build({**config, 'lazy_init': True})
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, TypeError) and 'lazy_init' in str(error):
            return None  # a class that cannot be built lazily checks itself
        # Some classes look for their files while they are built, and fail with a bare assertion.
        root, ann_file = config.get('data_root') or '', config.get('ann_file') or ''
        if dataset.local:
            prefixes = (config.get('data_prefix') or {}).items()
            folders = {name: os.path.join(root, value) for name, value in prefixes if isinstance(value, str)}
            _check_paths(folders, os.path.join(root, ann_file) if ann_file else '', key)
        name = f'the dataset {config.get("type")} ({key})'
        if isinstance(error, RuntimeError) and 'data_root' in str(error) and not root:
            # mmpretrain's CIFAR classes download their files by themselves, into a folder that has to be named.
            remedy = f'set {key}.data_root to the folder that has the data or will get it'
            raise UserError(f'{name} has no data_root: {remedy}') from error
        if describe_failure(error):
            raise
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise UserError(f'{name} cannot be built: {reason}; correct its arguments or its files') from error


def _check_paths(folders: Mapping[str, Any], ann_file: str, key: str) -> None:
    if ann_file and not is_remote(ann_file) and not os.path.isdir(ann_file):
        remedy = f'put it there or set ann_file ({key}.ann_file) and data_root'
        regular_file(ann_file, 'annotation file', remedy)
    for name, folder in folders.items():
        if isinstance(folder, str) and folder and not is_remote(folder) and not os.path.isdir(folder):
            remedy = 'put the data there or set data_root and data_prefix'
            raise UserError(f'the folder {folder} ({key}.data_prefix.{name}) does not exist: {remedy}')


def check_samples(dataset: VisitedDataset) -> list[dict[str, Any]]:
    """List a dataset's samples, count them, and check that their images and label maps exist, without opening them."""
    samples, key = dataset.load_samples(), dataset.key
    dataset.images = len(samples)
    images = [sample['img_path'] for sample in samples if isinstance(sample.get('img_path'), str)]
    if absent := _absent(images):
        where = f'{key} ({dataset.ann_file})' if dataset.ann_file else key
        fault = f'{len(absent)} of {len(images)} images of {where} do not exist, for example {absent[0]}'
        raise UserError(f'{fault}: add the files, or correct ann_file and data_prefix')
    labels = {sample['seg_map_path']: sample for sample in samples if isinstance(sample.get('seg_map_path'), str)}
    if absent := _absent(labels) if dataset.loads_labels else []:
        example = f'{absent[0]} (for {labels[absent[0]].get("img_path")})'
        fault = f'{len(absent)} of {len(samples)} images of {key} have no label map, for example {example}'
        raise UserError(f'{fault}: add the files, or remove the images')
    # An image without objects is a legitimate sample of a detection dataset, so these are only counted.
    dataset.unlabelled = [str(sample.get('img_path')) for sample in samples if sample.get('instances') == []]
    return samples


def _absent(paths: Iterable[str]) -> list[str]:
    """Those of the paths that do not exist; one listing per folder instead of one look-up per file."""
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        if not is_remote(path):
            by_folder[os.path.dirname(path)].append(path)
    absent = []
    for folder, members in by_folder.items():
        present = set(os.listdir(folder or '.')) if os.path.isdir(folder or '.') else set()
        absent += [path for path in members if os.path.basename(path) not in present]
    return absent


class Finding(NamedTuple):
    """One thing that is wrong."""

    kind: str  # missing file, unreadable image, unreadable label map, size, label values, empty labels, box, annotation
    path: str  # the file to repair or remove
    reason: str  # a sentence that names the file


@dataclass
class DatasetReport:
    """What was found in one dataset."""

    key: str  # its dotted key in the config; several where datasets are the same
    samples: int = 0
    findings: list[Finding] = field(default_factory=list)
    classes: Sequence[str] | None = None  # where they are known
    histogram: np.ndarray | None = None  # of each class, in ``unit``
    unit: str = ''  # pixels, objects or images
    notes: list[str] = field(default_factory=list)  # what is worth knowing but no fault

    def lines(self, shown: int | None = None) -> Iterator[str]:
        """The report as text, with so many findings listed; all of them by default."""
        kinds = Counter(finding.kind for finding in self.findings)
        verdict = ', '.join(f'{count} x {kind}' for kind, count in kinds.most_common()) or 'nothing wrong'
        yield f'{self.key}: {self.samples} images: {verdict}'
        for finding in self.findings[:shown]:
            yield f'  {finding.kind}: {finding.reason}'
        if shown is not None and len(self.findings) > shown:
            yield f'  ... and {len(self.findings) - shown} more'
        for note in self.notes:
            yield f'  note: {note}'
        if self.histogram is None or not (total := self.histogram.sum()):
            return
        names = self.classes or [f'class {index}' for index in range(len(self.histogram))]
        present = [(str(names[index])[:_NAME_WIDTH], self.histogram[index]) for index in self.histogram.nonzero()[0]]
        width = max(len(name) for name, _ in present)
        yield f'  {self.unit} of each class:'
        for name, count in sorted(present, key=lambda entry: -entry[1]):
            yield f'    {name:{width}} {count:>12}  {count / total:7.2%}'
        if absent := [str(name) for name, count in zip(names, self.histogram, strict=True) if not count]:
            shown_names = ', '.join(absent[:10]) + (f' and {len(absent) - 10} more' if len(absent) > 10 else '')
            yield f'  note: {len(absent)} classes never occur: {shown_names}'


def write_fix_list(path: str | Path, reports: Sequence[DatasetReport]) -> int:
    """Write the files to repair or remove, a line each: path, tab, what is wrong. Returns the number of lines."""
    by_path: dict[str, list[str]] = {}
    for finding in (finding for report in reports for finding in report.findings):
        by_path.setdefault(finding.path, []).append(finding.reason)
    lines = [f'{name}\t{"; ".join(dict.fromkeys(reasons))}\n' for name, reasons in sorted(by_path.items())]
    with atomic_path(path) as file:
        file.write_text(''.join(lines), encoding='utf-8', errors='surrogateescape')
    return len(lines)
