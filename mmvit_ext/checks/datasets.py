"""Looking at the datasets of a config before the model is built.

Each dataset is built without loading its annotations, which is cheap and yields the paths and class names that it will
really use, defaults of its class included. What is missing is then told at once and not after the model is up.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS

from mmvit_ext.config.walking import iter_dataset_cfgs
from mmvit_ext.errors.failures import describe_failure
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import is_remote

__all__ = [
    'DatasetSummary',
    'build_lazily',
    'check_datasets',
    'check_paths',
    'is_local',
    'load_samples',
    'loads_labels',
]

# Reading a larger annotation file twice would cost more time than an early message is worth.
_MAX_ANNOTATION_BYTES = 64 * 2**20


@dataclass
class DatasetSummary:
    """What was found out about one dataset.

    Args:
        key: Its dotted key in the config.
        classes: Its class names, ``None`` when it does not tell them before loading.
        images: Number of images, ``None`` when they were not counted.
        unlabelled: Images without an annotation file.
    """

    key: str
    classes: Sequence[str] | None = None
    images: int | None = None
    unlabelled: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [] if self.images is None else [f'{self.images} images', f'{len(self.unlabelled)} without annotation']
        if self.classes is not None:
            parts.append(f'{len(self.classes)} classes')
        return f'{self.key}: {", ".join(parts) or "not examined"}'


def check_datasets(cfg: Config, splits: Sequence[str]) -> list[DatasetSummary]:
    """Check the datasets of the given dataloaders.

    Args:
        cfg: The config, its scope prepared.
        splits: Which of 'train', 'val' and 'test'.

    Returns:
        A summary per dataset.

    Raises:
        UserError: A folder or annotation file is missing, there is no image, or images lack their annotation; names the
            path and the key to change.
    """
    summaries = []
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if isinstance(loader, Mapping):
            for key, dataset in iter_dataset_cfgs(loader.get('dataset'), f'{split}_dataloader.dataset'):
                summaries.append(_check_dataset(dataset, key))
    return summaries


def is_local(dataset: Mapping[str, Any]) -> bool:
    """Whether a dataset's files are on a disk of this machine.

    Args:
        dataset: Its config.

    Returns:
        Whether they are.
    """
    backend = (dataset.get('backend_args') or {}).get('backend', 'local')
    root = dataset.get('data_root')
    return backend in ('local', 'disk') and not (isinstance(root, str) and is_remote(root))


def _check_dataset(dataset: Mapping[str, Any], key: str) -> DatasetSummary:
    local = is_local(dataset)
    if local:
        root = dataset.get('data_root')
        if isinstance(root, str) and root and not os.path.isdir(root):
            raise UserError(
                f'the dataset folder {root} ({key}.data_root) does not exist: put the data there or set data_root '
                'to where it is'
            )
    built = build_lazily(dataset, key)
    if built is None:
        return DatasetSummary(key)
    summary = DatasetSummary(key, classes=(getattr(built, 'metainfo', None) or {}).get('classes'))
    if local:
        check_paths(getattr(built, 'data_prefix', None), getattr(built, 'ann_file', ''), key)
        _check_samples(built, key, summary)
    return summary


def build_lazily(dataset: Mapping[str, Any], key: str) -> Any:
    """Build a dataset without loading its annotations.

    Args:
        dataset: Its config.
        key: Its dotted key, for messages.

    Returns:
        The dataset, ``None`` for a class that cannot be built so.

    Raises:
        UserError: It cannot be built.
    """
    local = is_local(dataset)
    try:
        return DATASETS.build({**dataset, 'lazy_init': True})
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, TypeError) and 'lazy_init' in str(error):
            return None  # a dataset of another kind: its own checks have to do
        # Some classes look for their files while they are built, and fail with a bare assertion.
        if local:
            root = dataset.get('data_root') or ''
            prefixes = {
                name: os.path.join(root, value)
                for name, value in (dataset.get('data_prefix') or {}).items()
                if isinstance(value, str)
            }
            ann_file = dataset.get('ann_file') or ''
            check_paths(prefixes, os.path.join(root, ann_file) if ann_file else '', key)
        if isinstance(error, RuntimeError) and 'data_root' in str(error) and not dataset.get('data_root'):
            # mmpretrain's CIFAR and its kin fetch their files by themselves, into a folder that has to be named.
            raise UserError(
                f'the dataset {dataset.get("type")} ({key}) has no data_root: set {key}.data_root to the folder that '
                'has the data or will get it'
            ) from error
        if describe_failure(error):
            raise
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise UserError(
            f'the dataset {dataset.get("type")} ({key}) cannot be built: {reason}; correct its arguments or its files'
        ) from error


def check_paths(prefixes: Any, ann_file: Any, key: str) -> None:
    """Check that a dataset's folders and annotation file exist.

    Args:
        prefixes: Folders by the name of their entry in ``data_prefix``.
        ann_file: The annotation file, or nothing.
        key: The dataset's dotted key, for messages.

    Raises:
        UserError: One does not exist; names the key to change.
    """
    if isinstance(ann_file, str) and ann_file and not is_remote(ann_file) and not os.path.exists(ann_file):
        raise UserError(
            f'the annotation file {ann_file} ({key}.ann_file) does not exist: put it there or set ann_file '
            'and data_root'
        )
    if not isinstance(prefixes, Mapping):
        return
    for name, folder in prefixes.items():
        if isinstance(folder, str) and folder and not is_remote(folder) and not os.path.isdir(folder):
            raise UserError(
                f'the folder {folder} ({key}.data_prefix.{name}) does not exist: put the data there or set data_root '
                'and data_prefix'
            )


def _check_samples(built: Any, key: str, summary: DatasetSummary) -> None:
    samples = _load_samples(built, key)
    if samples is None:
        return
    ann_file = getattr(built, 'ann_file', '')
    images = [sample['img_path'] for sample in samples if isinstance(sample.get('img_path'), str)]
    summary.images = len(samples)
    if not samples:
        folders = ', '.join(str(folder) for folder in (getattr(built, 'data_prefix', None) or {}).values() if folder)
        suffix = getattr(built, 'img_suffix', None)
        kind = f' ending in {suffix}' if suffix and not ann_file else ''
        raise UserError(
            f'the dataset {key} has no image{kind} in {ann_file or folders or "its folder"}: check data_root, '
            'data_prefix, ann_file and the file names'
        )
    _refuse_absent(images, 'image', f'{key} ({ann_file})' if ann_file else key)
    # An image without objects is a legitimate sample of a detection dataset, so these are only counted.
    summary.unlabelled = [str(sample.get('img_path')) for sample in samples if sample.get('instances') == []]
    labels = {sample['seg_map_path']: sample for sample in samples if isinstance(sample.get('seg_map_path'), str)}
    if labels and loads_labels(built):
        summary.unlabelled = list(_absent(labels))
        if summary.unlabelled:
            example = summary.unlabelled[0]
            raise UserError(
                f'{len(summary.unlabelled)} of {len(samples)} images of {key} have no label map, for example {example} '
                f'(for {labels[example].get("img_path")}): add the files, or remove the images'
            )


def loads_labels(built: Any) -> bool:
    """Whether a dataset's pipeline loads annotations.

    Args:
        built: The dataset.

    Returns:
        Whether it does.
    """
    steps = getattr(getattr(built, 'pipeline', None), 'transforms', None) or []
    return any('Annotations' in type(step).__name__ for step in steps)


def _load_samples(built: Any, key: str) -> list[dict[str, Any]] | None:
    """All samples of a dataset whose listing is cheap, ``None`` for the others."""
    ann_file = getattr(built, 'ann_file', '')
    segmentation = 'seg_map_path' in (getattr(built, 'data_prefix', None) or {})
    small = (
        isinstance(ann_file, str) and os.path.isfile(ann_file) and os.path.getsize(ann_file) <= _MAX_ANNOTATION_BYTES
    )
    return load_samples(built, key) if segmentation or small else None


def load_samples(built: Any, key: str) -> list[dict[str, Any]]:
    """All samples of a dataset, without loading their images.

    Args:
        built: The dataset.
        key: Its dotted key, for messages.

    Returns:
        What its ``load_data_list`` gives.

    Raises:
        UserError: The annotations cannot be read.
    """
    ann_file, prefixes = getattr(built, 'ann_file', ''), getattr(built, 'data_prefix', None) or {}
    try:
        return list(built.load_data_list())
    except UserError:
        raise
    except Exception as error:
        reason = ' '.join(str(error).split())
        raise UserError(
            f'the annotations of {key} ({ann_file or prefixes}) cannot be read: {type(error).__name__}: {reason}; '
            'check that they are of the format that the dataset class expects'
        ) from error


def _refuse_absent(paths: Sequence[str], role: str, key: str) -> None:
    absent = list(_absent(paths))
    if absent:
        raise UserError(
            f'{len(absent)} of {len(paths)} {role}s of {key} do not exist, for example {absent[0]}: add the files, or '
            'correct ann_file and data_prefix'
        )


def _absent(paths: Any) -> Iterator[str]:
    """Those of the paths that do not exist; one listing per folder instead of one look-up per file."""
    by_folder: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        if not is_remote(path):
            by_folder[os.path.dirname(path)].append(path)
    for folder, members in by_folder.items():
        present = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        yield from (path for path in members if os.path.basename(path) not in present)
