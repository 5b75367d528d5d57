"""Going through every image and annotation of a config's datasets: what ``tools/check_dataset.py`` does.

Files are read by the loaders that training uses (:class:`mmvit_ext.LoadImageFromFile` and
:class:`mmvit_ext.LoadSegAnnotations`), so that what passes here is what they accept. They are read in worker processes,
a few hundred at a time; a worker that dies ends the check with a message instead of leaving it waiting.
"""

import json
import math
import multiprocessing
import os
import signal
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from mmvit_ext.config.walking import iter_dataset_cfgs
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import atomic_path
from mmvit_ext.machine import progress_bar

from .datasets import build_lazily, check_paths, is_local, load_samples, loads_labels

__all__ = [
    'DatasetReport',
    'Finding',
    'box_problem',
    'check_every_file',
    'write_fix_list',
]

SPLITS = ('train', 'val', 'test')

_CHUNK = 32

_NAME_WIDTH = 32  # ImageNet's names list synonyms

_BOX_TOLERANCE = 1.0  # pixels; annotation tools round


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Args:
        path: The file to repair or remove.
        kind: 'missing file', 'unreadable image', 'unreadable label map', 'size', 'label values', 'empty labels', 'box'
            or 'annotation'.
        reason: A sentence that names the file.
    """

    path: str
    kind: str
    reason: str


@dataclass
class DatasetReport:
    """What was found in one dataset.

    Args:
        key: Its dotted key in the config; several where datasets are the same.
        samples: Number of images.
        findings: What is wrong.
        classes: Its class names, where it tells them.
        histogram: Pixels, objects or images of each class.
        unit: What the histogram counts.
        notes: What is worth knowing but no fault.
    """

    key: str
    samples: int = 0
    findings: list[Finding] = field(default_factory=list)
    classes: Sequence[str] | None = None
    histogram: np.ndarray | None = None
    unit: str = ''
    notes: list[str] = field(default_factory=list)

    def lines(self, shown: int | None = None) -> Iterator[str]:
        """The report as text.

        Args:
            shown: Number of findings that are listed; all of them by default.
        """
        kinds = Counter(finding.kind for finding in self.findings)
        verdict = ', '.join(f'{count} x {kind}' for kind, count in kinds.most_common()) or 'nothing wrong'
        yield f'{self.key}: {self.samples} images: {verdict}'
        for finding in self.findings[:shown]:
            yield f'  {finding.kind}: {finding.reason}'
        if shown is not None and len(self.findings) > shown:
            yield f'  ... and {len(self.findings) - shown} more'
        for note in self.notes:
            yield f'  note: {note}'
        yield from self._histogram_lines()

    def _histogram_lines(self) -> Iterator[str]:
        if self.histogram is None or not self.histogram.sum():
            return
        names = self.classes or [f'class {index}' for index in range(len(self.histogram))]
        total = self.histogram.sum()
        present = [(str(name)[:_NAME_WIDTH], int(self.histogram[index])) for index, name in enumerate(names)]
        width = max(len(name) for name, count in present if count)
        yield f'  {self.unit} of each class:'
        for name, count in sorted(present, key=lambda entry: -entry[1]):
            if count:
                yield f'    {name:{width}} {count:>12}  {count / total:7.2%}'
        absent = [str(name) for name, count in zip(names, self.histogram, strict=True) if not count]
        if absent:
            shown = ', '.join(absent[:10]) + (f' and {len(absent) - 10} more' if len(absent) > 10 else '')
            yield f'  note: {len(absent)} classes never occur: {shown}'


# Worker processes
@dataclass(frozen=True)
class _Context:
    """What the samples of a dataset have in common."""

    backend_args: Mapping[str, Any] | None
    local: bool
    num_classes: int | None
    ignore_index: int
    labels: bool


@dataclass(frozen=True)
class _Sample:
    image: str | None
    label_map_path: str | None = None
    size: tuple[int, int] | None = None  # (height, width) that the annotation tells
    reduce_zero_label: bool = False
    label_map: Mapping[int, int] | None = None


@dataclass
class _Outcome:
    findings: list[Finding] = field(default_factory=list)
    pixels: np.ndarray | None = None
    wrong: dict[int, tuple[int, int]] = field(default_factory=dict)  # value: pixels, files
    values: set[int] = field(default_factory=set)  # of the label maps of 8 bit


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends the workers


def _check_chunk(samples: Sequence[_Sample], context: _Context) -> _Outcome:
    outcome = _Outcome()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # Pillow warns of large pictures and of odd metadata
        for sample in samples:
            _check_sample(sample, context, outcome)
    return outcome


def _check_sample(sample: _Sample, context: _Context, outcome: _Outcome) -> None:
    shape = _check_image(sample, context, outcome) if sample.image is not None else None
    if sample.label_map_path is not None and context.labels:
        _check_label_map(sample, shape, context, outcome)


def _exists(path: str, role: str, context: _Context, outcome: _Outcome) -> bool:
    # A named pipe or a device would be waited for.
    if context.local and not os.path.isfile(path):
        outcome.findings.append(Finding(path, 'missing file', f'the {role} {path} does not exist'))
        return False
    return True


def _check_image(sample: _Sample, context: _Context, outcome: _Outcome) -> tuple[int, int] | None:
    from mmvit_ext.datasets.transforms import LoadImageFromFile

    assert sample.image is not None
    if not _exists(sample.image, 'image', context, outcome):
        return None
    backend_args = None if context.backend_args is None else dict(context.backend_args)
    try:
        loaded = LoadImageFromFile(backend_args=backend_args).transform({'img_path': sample.image})
    except UserError as error:
        outcome.findings.append(Finding(sample.image, 'unreadable image', str(error)))
        return None
    assert loaded is not None
    height, width = loaded['ori_shape']
    if sample.size is not None and (height, width) != sample.size:
        reason = (
            f'the image {sample.image} is {width}x{height} but its annotation says {sample.size[1]}x{sample.size[0]}'
        )
        outcome.findings.append(Finding(sample.image, 'size', reason))
    return height, width


def _check_label_map(sample: _Sample, shape: tuple[int, int] | None, context: _Context, outcome: _Outcome) -> None:
    from mmvit_ext.datasets.seg_transforms import LoadSegAnnotations

    path = sample.label_map_path
    assert path is not None
    if not _exists(path, 'label map', context, outcome):
        return
    loader = LoadSegAnnotations(
        num_classes=context.num_classes,
        ignore_index=context.ignore_index,
        backend_args=None if context.backend_args is None else dict(context.backend_args),
    )
    results = {
        'img_path': sample.image,
        'seg_map_path': path,
        'reduce_zero_label': sample.reduce_zero_label,
        'label_map': sample.label_map,
        'ori_shape': shape,
    }
    try:
        raw = loader.decode(path)
    except UserError as error:
        outcome.findings.append(Finding(path, 'unreadable label map', str(error)))
        return
    for kind, check in (('size', loader.check_size), ('label values', loader.check_values)):
        try:
            check(raw, results)
        except UserError as error:
            outcome.findings.append(Finding(path, kind, str(error)))
    if raw.dtype == np.uint8:
        outcome.values.update(np.flatnonzero(np.bincount(raw.ravel(), minlength=256)).tolist())
    for value, pixels in loader.wrong_values(raw, results).items():
        before = outcome.wrong.get(value, (0, 0))
        outcome.wrong[value] = (before[0] + pixels, before[1] + 1)
    if context.num_classes is None:
        return
    counts = np.bincount(loader.to_classes(raw, results).ravel(), minlength=256)[: context.num_classes]
    outcome.pixels = counts if outcome.pixels is None else outcome.pixels + counts
    if not counts.sum():
        outcome.findings.append(
            Finding(path, 'empty labels', f'the label map {path} has no pixel of any class: label it or remove it')
        )


# Boxes
def box_problem(box: Any, width: float, height: float) -> str | None:
    """What is wrong with a box.

    Args:
        box: Left edge, upper edge, width and height in pixels, as COCO has them.
        width: Of the image, in pixels.
        height: Of the image, in pixels.

    Returns:
        A phrase, ``None`` for a box within the image (up to a pixel of rounding).
    """
    if not isinstance(box, list | tuple) or len(box) != 4:
        return 'is no list of four numbers'
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in box):
        return 'has values that are no numbers'
    x, y, w, h = box
    if w <= 0 or h <= 0:
        return 'has no area'
    if min(x, y) < -_BOX_TOLERANCE or x + w > width + _BOX_TOLERANCE or y + h > height + _BOX_TOLERANCE:
        return f'reaches out of the image of {width:g}x{height:g} pixels'
    return None


def _read_coco(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f'the annotation file {path} cannot be read ({" ".join(str(error).split())}): copy or download it again'
        ) from error
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f'the annotation file {path} has no list {key!r}: expected the COCO format')
        if not all(isinstance(entry, dict) for entry in content[key]):
            raise UserError(f'the annotation file {path} has something else than objects in {key!r}: expected COCO')
    return content


def _key(number: Any) -> Any:
    """An id as it can be looked up, whatever a broken file has in its place."""
    return number if isinstance(number, int | str) else repr(number)


def _coco_samples(built: Any, report: DatasetReport) -> list[_Sample]:
    """The images of a COCO file; what is wrong in the file itself goes into the report."""
    path = str(built.ann_file)
    content = _read_coco(path)
    folder = (built.data_prefix or {}).get('img') or (built.data_prefix or {}).get('img_path') or ''
    images: dict[Any, tuple[str, float, float]] = {}
    samples = []

    def wrong(where: str, kind: str, reason: str) -> None:
        report.findings.append(Finding(where, kind, reason))

    for image in content['images']:
        name, size = image.get('file_name'), (image.get('height'), image.get('width'))
        if not isinstance(name, str) or image.get('id') is None:
            wrong(path, 'annotation', f'{path}: the image {image.get("id")} has no id or no file_name')
            continue
        file = os.path.join(folder, name)
        if _key(image['id']) in images:
            wrong(file, 'annotation', f'{path}: two images have the id {image["id"]}, {file} is the second')
            continue
        sized = all(isinstance(value, int) and not isinstance(value, bool) and value > 0 for value in size)
        if not sized:
            wrong(file, 'annotation', f'{path}: the image {file} has no width and height')
        images[_key(image['id'])] = (file, size[1], size[0]) if sized else (file, math.inf, math.inf)
        samples.append(_Sample(file, size=(size[0], size[1]) if sized else None))
    names = {_key(category.get('id')): str(category.get('name')) for category in content['categories']}
    classes = list(report.classes or names.values())
    for name in sorted(set(classes) - set(names.values())):
        wrong(path, 'annotation', f'{path} has no category {name!r}, which is one of the classes of the dataset')
    counts: Counter[str] = Counter()
    labelled: set[Any] = set()
    for annotation in content['annotations']:
        where = f'{path}: annotation {annotation.get("id")}'
        if _key(annotation.get('image_id')) not in images:
            wrong(path, 'annotation', f'{where} is of image {annotation.get("image_id")}, which the file does not list')
            continue
        file, width, height = images[_key(annotation['image_id'])]
        labelled.add(_key(annotation['image_id']))
        if _key(annotation.get('category_id')) not in names:
            wrong(file, 'annotation', f'{where} of {file} has the unknown category {annotation.get("category_id")}')
        else:
            counts[names[_key(annotation['category_id'])]] += 1
        problem = box_problem(annotation.get('bbox'), width, height)
        if problem:
            wrong(file, 'box', f'{where} of {file}: the box {annotation.get("bbox")} {problem}')
        elif 'area' in annotation and not (isinstance(annotation['area'], int | float) and annotation['area'] > 0):
            wrong(file, 'box', f'{where} of {file}: its area is {annotation["area"]}')
    report.classes, report.unit = classes, 'objects'
    report.histogram = np.array([counts[name] for name in classes], dtype=np.int64)
    others = sum(count for name, count in counts.items() if name not in set(classes))
    if others:
        report.notes.append(f'{others} objects are of categories that are no classes of the dataset')
    if len(labelled) < len(images):
        report.notes.append(f'{len(images) - len(labelled)} images have no objects')
    return samples


# Datasets
def _listed_samples(built: Any, key: str, report: DatasetReport, local: bool) -> list[_Sample]:
    """The samples of a segmentation or classification dataset; wrong class labels go into the report."""
    entries = load_samples(built, key)
    samples = []
    labels: list[int] = []
    count = len(report.classes) if report.classes else None
    for entry in entries:
        path = entry.get('img_path')
        samples.append(
            _Sample(
                path if isinstance(path, str) else None,
                entry.get('seg_map_path'),
                reduce_zero_label=bool(entry.get('reduce_zero_label', False)),
                label_map=entry.get('label_map'),
            )
        )
        of_image = np.atleast_1d(entry['gt_label']).tolist() if 'gt_label' in entry else []
        for label in of_image:
            if not isinstance(label, int) or label < 0 or (count is not None and label >= count):
                reason = f'the image {path} has the label {label} where the dataset has {count} classes'
                report.findings.append(Finding(str(path), 'label values', reason))
            else:
                labels.append(label)
    if local:
        report.findings += _labels_without_image(built, samples)
    if labels:
        report.histogram, report.unit = np.bincount(labels, minlength=count or 0), 'images'
    if not entries:
        folders = ', '.join(str(folder) for folder in (getattr(built, 'data_prefix', None) or {}).values() if folder)
        raise UserError(f'the dataset {key} has no image in {folders or "its folder"}: check data_root and data_prefix')
    return samples


def _labels_without_image(built: Any, samples: Sequence[_Sample]) -> Iterator[Finding]:
    """Label maps whose image is not there, where the samples are those of a folder and not of a list."""
    folder = (getattr(built, 'data_prefix', None) or {}).get('seg_map_path')
    suffix = getattr(built, 'seg_map_suffix', None)
    if getattr(built, 'ann_file', '') or not suffix or not folder or not os.path.isdir(folder):
        return
    known = {os.path.normpath(sample.label_map_path) for sample in samples if sample.label_map_path}
    for parent, _, names in os.walk(folder):
        for name in sorted(names):
            path = os.path.normpath(os.path.join(parent, name))
            if name.endswith(suffix) and path not in known:
                yield Finding(path, 'missing file', f'the label map {path} has no image')


def _is_coco(built: Any) -> bool:
    return any(kind.__name__ == 'CocoDataset' for kind in type(built).__mro__)


def _ignore_index(dataset: Mapping[str, Any]) -> int:
    for step in dataset.get('pipeline') or []:
        if 'ignore_index' in step and 'Annotations' in str(step.get('type')):
            return int(step['ignore_index'])
    return int(dataset.get('ignore_index', 255))


def _check_dataset(dataset: Mapping[str, Any], key: str, jobs: int, progress: bool) -> DatasetReport:
    report = DatasetReport(key)
    built = build_lazily(dataset, key)
    if built is None:
        report.notes.append(f'a dataset of type {dataset.get("type")} cannot be examined')
        return report
    local = is_local(dataset)
    if local:
        check_paths(getattr(built, 'data_prefix', None), getattr(built, 'ann_file', ''), key)
    report.classes = (getattr(built, 'metainfo', None) or {}).get('classes')
    samples = _coco_samples(built, report) if _is_coco(built) else _listed_samples(built, key, report, local)
    if report.classes is None:  # some classes know their names only now
        report.classes = (getattr(built, 'metainfo', None) or {}).get('classes')
    report.samples = len(samples)
    context = _Context(
        backend_args=dataset.get('backend_args'),
        local=local,
        num_classes=len(report.classes) if report.classes and len(report.classes) <= 255 else None,
        ignore_index=_ignore_index(dataset),
        labels=loads_labels(built),
    )
    wrong: dict[int, tuple[int, int]] = {}
    values: set[int] = set()
    pixels: np.ndarray | None = None
    for outcome in _outcomes(samples, context, jobs, key, progress):
        report.findings += outcome.findings
        values |= outcome.values
        if outcome.pixels is not None:
            pixels = outcome.pixels if pixels is None else pixels + outcome.pixels
        for value, (count, files) in outcome.wrong.items():
            before = wrong.get(value, (0, 0))
            wrong[value] = (before[0] + count, before[1] + files)
    if pixels is not None:
        report.histogram, report.unit = pixels, 'pixels'
    if values == {0, context.ignore_index} and (context.num_classes or 0) > 1:
        folder = str((getattr(built, 'data_prefix', None) or {}).get('seg_map_path'))
        reason = (
            f'all label maps in {folder} consist of 0 and {context.ignore_index}, and {context.ignore_index} is '
            'ignored: if these are masks, write their foreground as 1'
        )
        report.findings.append(Finding(folder, 'label values', reason))
    if wrong:
        listed = ', '.join(f'{value} ({n} px in {files} files)' for value, (n, files) in sorted(wrong.items())[:20])
        report.notes.append(f'label values outside the {context.num_classes} classes: {listed}')
    report.findings.sort(key=lambda finding: (finding.kind, finding.path, finding.reason))
    return report


def _outcomes(
    samples: Sequence[_Sample], context: _Context, jobs: int, title: str, progress: bool
) -> Iterator[_Outcome]:
    chunks = [samples[start : start + _CHUNK] for start in range(0, len(samples), _CHUNK)]
    with progress_bar(title, show=progress) as bar:
        task = bar.add_task(title, total=len(samples))
        if min(jobs, len(chunks)) <= 1:
            for chunk in chunks:
                yield _check_chunk(chunk, context)
                bar.advance(task, len(chunk))
            return
        for size, outcome in _parallel(chunks, context, jobs):
            bar.advance(task, size)
            yield outcome


def _parallel(chunks: Sequence[Sequence[_Sample]], context: _Context, jobs: int) -> Iterator[tuple[int, _Outcome]]:
    # A started server process instead of a plain fork: the progress bar and PyTorch have threads of their own.
    method = multiprocessing.get_context('forkserver')
    method.set_forkserver_preload(['mmvit_ext.checks.every_sample', 'mmvit_ext.datasets'])
    waiting: dict[Future, Sequence[_Sample]] = {}
    remaining = iter(chunks)
    with ProcessPoolExecutor(min(jobs, len(chunks)) or 1, mp_context=method, initializer=_ignore_interrupts) as pool:
        try:
            while True:
                # Few at a time, so that neither samples nor outcomes pile up.
                while len(waiting) < 4 * jobs and (chunk := next(remaining, None)) is not None:
                    waiting[pool.submit(_check_chunk, chunk, context)] = chunk
                if not waiting:
                    return
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield len(waiting.pop(future)), future.result()
        except BrokenProcessPool as error:
            suspects = [sample.image for chunk in waiting.values() for sample in chunk if sample.image]
            raise UserError(
                'a worker process was killed, most often for lack of memory, at one of the files from '
                f'{suspects[0] if suspects else "the dataset"} on: lower --jobs; --jobs 1 reads them one after another'
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def check_every_file(
    cfg: Config, splits: Sequence[str] = SPLITS, *, jobs: int | None = None, progress: bool = True
) -> list[DatasetReport]:
    """Read every image and annotation of a config's datasets.

    Args:
        cfg: The config, its scope prepared.
        splits: Which of 'train', 'val' and 'test'; those that the config does not have are left out.
        jobs: Number of processes, at least 1; by default one for each processor.
        progress: Whether to show a progress bar on stderr.

    Returns:
        A report per dataset; datasets that are the same but for their pipeline are read once.

    Raises:
        UserError: A folder or annotation file is missing or unreadable, or there is no dataset.
    """
    if jobs is not None and jobs < 1:
        raise UserError(f'--jobs must be at least 1, got {jobs}')
    number = jobs or os.cpu_count() or 1
    reports: dict[str, DatasetReport] = {}
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if not isinstance(loader, Mapping):
            continue
        for key, dataset in iter_dataset_cfgs(loader.get('dataset'), f'{split}_dataloader.dataset'):
            ignored = ('pipeline', 'test_mode', 'filter_cfg', 'indices', 'serialize_data')
            plain = {name: value for name, value in dataset.items() if name not in ignored}
            identity = repr(sorted(plain.items(), key=lambda item: item[0]))
            if identity in reports:
                reports[identity].key += f' and {key}'
            else:
                reports[identity] = _check_dataset(dataset, key, number, progress)
    if not reports:
        raise UserError(f'the config has no dataset in {", ".join(f"{split}_dataloader" for split in splits)}')
    return list(reports.values())


def write_fix_list(path: str | Path, reports: Sequence[DatasetReport]) -> int:
    """Write the files to repair or remove, a line each: the path, a tab, what is wrong.

    Args:
        path: The file to write.
        reports: What :func:`check_every_file` returned.

    Returns:
        The number of lines.

    Raises:
        UserError: The file cannot be written.
    """
    by_path: dict[str, list[str]] = {}
    for report in reports:
        for finding in report.findings:
            by_path.setdefault(finding.path, []).append(finding.reason)
    lines = [f'{name}\t{"; ".join(dict.fromkeys(reasons))}\n' for name, reasons in sorted(by_path.items())]
    with atomic_path(path) as file:
        file.write_text(''.join(lines), encoding='utf-8', errors='surrogateescape')
    return len(lines)
