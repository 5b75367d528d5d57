"""Read every image and annotation of a config's datasets, as ``tools/check_dataset.py`` does.

Files are read by the loaders that training uses (:class:`mmvit_ext.LoadImageFromFile` and
:class:`mmvit_ext.LoadSegAnnotations`), so that what passes here is what they accept, in worker processes; a worker that
dies ends the check with a message instead of leaving it waiting.
"""

import multiprocessing
import os
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config

from mmvit_ext.config.walking import label_steps, step_name
from mmvit_ext.datasets.seg_transforms import LoadSegAnnotations
from mmvit_ext.datasets.transforms import LoadImageFromFile, image_loader
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.machine import progress_bar

from .coco_file import read_coco_file
from .datasets import DatasetReport, Finding, VisitedDataset, visit_datasets

__all__ = ['check_every_file']

SPLITS = ('train', 'val', 'test')
_CHUNK = 32


class _Sample(NamedTuple):
    image: str | None
    labels: Mapping[str, Any] | None = None  # what the label loader is given
    size: tuple[int, int] | None = None  # (height, width) that the annotation states


class _Context(NamedTuple):
    """What the samples of a dataset have in common."""

    local: bool
    load_image: LoadImageFromFile
    load_labels: Any = None  # LoadSegAnnotations, for datasets whose pipeline loads label maps


@dataclass
class _Outcome:
    findings: list[Finding] = field(default_factory=list)
    pixels: np.ndarray | None = None  # of each class
    wrong_pixels: Counter[int] = field(default_factory=Counter)  # by value
    wrong_files: Counter[int] = field(default_factory=Counter)
    values: set[int] = field(default_factory=set)  # of the label maps of 8 bit

    def add(self, other: '_Outcome') -> None:
        self.findings += other.findings
        self.wrong_pixels += other.wrong_pixels
        self.wrong_files += other.wrong_files
        self.values |= other.values
        if other.pixels is not None:
            self.pixels = other.pixels if self.pixels is None else self.pixels + other.pixels

    def attempt(self, path: str, kind: str, call: Callable[..., Any], *arguments: Any) -> Any:
        """What a call returns, ``None`` where its error becomes a finding."""
        try:
            return call(*arguments)
        except UserError as error:
            self.findings.append(Finding(kind, path, str(error)))
            return None

    def read(self, path: str, role: str, local: bool, call: Callable[..., Any], argument: Any) -> Any:
        """What a loader reads, ``None`` where the file is not there or the loader's error becomes a finding."""
        if local and not os.path.isfile(path):  # a named pipe or a device would be waited for
            self.findings.append(Finding('missing file', path, f'the {role} {path} does not exist'))
            return None
        return self.attempt(path, f'unreadable {role}', call, argument)


def _check_chunk(samples: Sequence[_Sample], context: _Context) -> _Outcome:
    outcome = _Outcome()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # Pillow warns of large pictures and of odd metadata
        for sample in samples:
            shape = None if sample.image is None else _check_image(sample.image, sample.size, context, outcome)
            if sample.labels is not None and context.load_labels is not None:
                _check_label_map({**sample.labels, 'img_path': sample.image, 'ori_shape': shape}, context, outcome)
    return outcome


def _check_image(
    path: str, size: tuple[int, int] | None, context: _Context, outcome: _Outcome
) -> tuple[int, int] | None:
    if (loaded := outcome.read(path, 'image', context.local, context.load_image.transform, {'img_path': path})) is None:
        return None
    height, width = loaded['ori_shape']
    if size not in (None, (height, width)):
        reason = f'the image {path} is {width}x{height} but its annotation says {size[1]}x{size[0]}'
        outcome.findings.append(Finding('size', path, reason))
    return height, width


def _check_label_map(results: Mapping[str, Any], context: _Context, outcome: _Outcome) -> None:
    path, loader = results['seg_map_path'], context.load_labels
    if (raw := outcome.read(path, 'label map', context.local, loader.decode, path)) is None:
        return
    outcome.attempt(path, 'size', loader.check_size, raw, results)
    outcome.attempt(path, 'label values', loader.check_values, raw, results)
    if raw.dtype == np.uint8:
        outcome.values.update(np.flatnonzero(np.bincount(raw.ravel(), minlength=256)).tolist())
    wrong = loader.wrong_values(raw, results)
    outcome.wrong_pixels.update(wrong)
    outcome.wrong_files.update(wrong.keys())
    if loader.num_classes is None:
        return
    counts = np.bincount(loader.to_classes(raw, results).ravel(), minlength=256)[: loader.num_classes]
    outcome.add(_Outcome(pixels=counts))
    if not counts.sum():
        reason = f'the label map {path} has no pixel of any class: label it or remove it'
        outcome.findings.append(Finding('empty labels', path, reason))


def _listed_samples(dataset: VisitedDataset, report: DatasetReport) -> list[_Sample]:
    """The samples of a segmentation or classification dataset; wrong class labels go into the report."""
    samples = []
    labels: list[int] = []
    first: dict[str, list[Any]] = {}
    entries = dataset.load_samples()
    report.classes = report.classes or dataset.classes  # some datasets know their names only now
    count = len(report.classes) if report.classes else None
    for entry in entries:
        path = entry.get('img_path')
        samples.append(_Sample(path if isinstance(path, str) else None, entry if entry.get('seg_map_path') else None))
        given = np.atleast_1d(entry['gt_label']).tolist() if 'gt_label' in entry else []
        if isinstance(path, str) and first.setdefault(path, given) != given:
            reason = f'the image {path} is listed with the labels {first[path]} and {given}'
            report.findings.append(Finding('label values', path, reason))
        for label in given:
            if not isinstance(label, int) or label < 0 or (count is not None and label >= count):
                reason = f'the image {path} has the label {label} where the dataset has {count} classes'
                report.findings.append(Finding('label values', str(path), reason))
            else:
                labels.append(label)
    if first and len(first) < len(samples):
        report.notes.append(f'{len(samples) - len(first)} samples are images that are listed before')
    if dataset.local:
        report.findings += _labels_without_image(dataset, samples)
    if labels:
        report.histogram, report.unit = np.bincount(labels, minlength=count or 0), 'images'
    return samples


def _labels_without_image(dataset: VisitedDataset, samples: Sequence[_Sample]) -> Iterator[Finding]:
    """Label maps whose image is not there, where the samples are those of a folder and not of a list."""
    folder = dataset.folders.get('seg_map_path')
    suffix = getattr(dataset.built, 'seg_map_suffix', None)
    if dataset.ann_file or not suffix or not folder or not os.path.isdir(folder):
        return
    known = {os.path.normpath(sample.labels['seg_map_path']) for sample in samples if sample.labels}
    for parent, _, names in os.walk(folder):
        for name in sorted(names):
            path = os.path.normpath(os.path.join(parent, name))
            if name.endswith(suffix) and path not in known:
                yield Finding('missing file', path, f'the label map {path} has no image')


def _context(dataset: VisitedDataset, classes: Sequence[str] | None) -> _Context:
    config = dataset.config
    backend_args = dict(config.get('backend_args') or {}) or None
    steps = [step for step in config.get('pipeline') or () if isinstance(step, Mapping)]
    step = next((step for step in steps if step_name(step).rpartition('.')[2] == 'LoadImageFromFile'), {})
    own = backend_args or step.get('backend_args')
    load_image = image_loader({**step, 'backend_args': own, 'ignore_empty': False})
    if not dataset.loads_labels or 'seg_map_path' not in dataset.folders:
        return _Context(dataset.local, load_image)
    said = [node['ignore_index'] for node in (*label_steps(steps), config) if node.get('ignore_index') is not None]
    count = len(classes) if classes and len(classes) <= 255 else None
    steps = label_steps(steps)
    more = {name: node[name] for node in steps for name in ('values', 'ignored', 'tolerance') if name in node}
    load_labels = LoadSegAnnotations(count, ignore_index=int([*said, 255][0]), backend_args=backend_args, **more)
    return _Context(dataset.local, load_image, load_labels)


def _check_dataset(dataset: VisitedDataset, jobs: int, progress: bool) -> DatasetReport:
    report = DatasetReport(dataset.key)
    if dataset.built is None:
        report.notes.append(f'a dataset of type {dataset.config.get("type")} cannot be examined')
        return report
    report.classes = dataset.classes
    kinds = {kind.__name__ for kind in type(dataset.built).__mro__}
    if 'CocoDataset' in kinds and 'CocoPanopticDataset' not in kinds:
        samples = [_Sample(path, size=size) for path, size in read_coco_file(dataset, report)]
    else:
        samples = _listed_samples(dataset, report)
    report.samples = len(samples)
    context = _context(dataset, report.classes)
    total = _Outcome()
    for outcome in _outcomes(samples, context, jobs, dataset.key, progress):
        total.add(outcome)
    report.findings += total.findings
    if total.pixels is not None:
        report.histogram, report.unit = total.pixels, 'pixels'
    loader = context.load_labels
    masks = loader is not None and loader.values is None and total.values == {0, loader.ignore_index}
    if masks and (loader.num_classes or 0) > 1:
        folder, ignored = str(dataset.folders.get('seg_map_path')), loader.ignore_index
        reason = f'all label maps in {folder} consist of 0 and {ignored}, and {ignored} is ignored'
        reason += ': if these are masks, write their foreground as 1'
        report.findings.append(Finding('label values', folder, reason))
    if total.wrong_pixels:
        first, files = sorted(total.wrong_pixels.items())[:20], total.wrong_files
        listed = ', '.join(f'{value} ({pixels} px in {files[value]} files)' for value, pixels in first)
        report.notes.append(f'label values outside the {loader.num_classes} classes: {listed}')
    report.findings.sort()
    return report


def _outcomes(
    samples: Sequence[_Sample], context: _Context, jobs: int, title: str, progress: bool
) -> Iterator[_Outcome]:
    chunks = [samples[start : start + _CHUNK] for start in range(0, len(samples), _CHUNK)]
    workers, chunk = min(jobs, len(chunks)), samples[:0]
    with ExitStack() as stack:
        bar = stack.enter_context(progress_bar(title, show=progress))
        task = bar.add_task(title, total=len(samples))
        work: Any = map
        if workers > 1:
            # A started server process instead of a plain fork: the progress bar and PyTorch have threads of their own.
            method: Any = multiprocessing.get_context('forkserver')
            method.set_forkserver_preload(['mmvit_ext.checks.every_sample', 'mmvit_ext.datasets'])
            ignored = (signal.SIGINT, signal.SIG_IGN)  # the main process ends the workers
            pool = ProcessPoolExecutor(workers, method, initializer=signal.signal, initargs=ignored)
            stack.callback(pool.shutdown, cancel_futures=True)
            work = pool.map
        outcomes = work(partial(_check_chunk, context=context), chunks)
        try:
            for chunk in chunks:
                yield next(outcomes)
                bar.advance(task, len(chunk))
        except BrokenProcessPool as error:
            first = next((sample.image for sample in chunk if sample.image), 'the dataset')
            cause = 'a worker process was killed, most often for lack of memory, at one of the files from'
            raise UserError(f'{cause} {first} on: lower --jobs; --jobs 1 reads them one after another') from error


def check_every_file(
    cfg: Config, splits: Sequence[str] = SPLITS, *, jobs: int | None = None, progress: bool = True
) -> list[DatasetReport]:
    """Read every image and annotation of the datasets, each once, in ``jobs`` processes or one for each processor."""
    if jobs is not None and jobs < 1:
        raise UserError(f'--jobs must be at least 1, got {jobs}')
    number = jobs or os.cpu_count() or 1
    reports: dict[str, DatasetReport] = {}
    for dataset in visit_datasets(cfg, splits):
        ignored = ('pipeline', 'test_mode', 'filter_cfg', 'indices', 'serialize_data')
        identity = repr(sorted((name, value) for name, value in dataset.config.items() if name not in ignored))
        if identity in reports:
            reports[identity].key += f' and {dataset.key}'
        else:
            reports[identity] = _check_dataset(dataset, number, progress)
    if not reports:
        raise UserError(f'the config has no dataset in {", ".join(f"{split}_dataloader" for split in splits)}')
    return list(reports.values())
