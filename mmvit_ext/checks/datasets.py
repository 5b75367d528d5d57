"""The walk over a config's datasets on which all checks stand: before a run, of every sample, and of a ledger row.

Each dataset is built without loading its annotations, which is cheap and yields the paths and class names that it will
really use, defaults of its class included. A missing folder is then reported before the model is built.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS

from mmvit_ext.config.walking import iter_dataset_cfgs
from mmvit_ext.errors.failures import describe_failure
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import is_remote, regular_file

__all__ = ['VisitedDataset', 'check_samples', 'visit_datasets']


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
    def source(self) -> str:
        """Annotation file or folders, for messages."""
        return self.ann_file or ', '.join(str(folder) for folder in self.folders.values() if folder) or 'its folder'

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
        try:
            samples = list(self.built.load_data_list())
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f'the annotations of {self.key} ({self.source}) cannot be read: {type(error).__name__}: '
                f'{" ".join(str(error).split())}; check that they are of the format that the dataset class expects'
            ) from error
        if not samples:
            suffix = getattr(self.built, 'img_suffix', None)
            kind = f' ending in {suffix}' if suffix and not self.ann_file else ''
            raise UserError(
                f'the dataset {self.key} has no image{kind} in {self.source}: check data_root, data_prefix, ann_file '
                'and the file names'
            )
        return samples

    def __str__(self) -> str:
        parts = [] if self.images is None else [f'{self.images} images', f'{len(self.unlabelled)} without annotation']
        parts += [] if self.classes is None else [f'{len(self.classes)} classes']
        return f'{self.key}: {", ".join(parts) or "not examined"}'


def visit_datasets(cfg: Config, splits: Iterable[str]) -> Iterator[VisitedDataset]:
    """Build the datasets of dataloaders (inside of wrappers) without their annotations, and look for their paths.

    Args:
        cfg: The config, its scope prepared.
        splits: Which of 'train', 'val' and 'test'; those that the config does not have are left out.

    Raises:
        UserError: A folder or annotation file is missing, or the dataset cannot be built; names the key to change.
    """
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if isinstance(loader, Mapping):
            for key, config in iter_dataset_cfgs(loader.get('dataset'), f'{split}_dataloader.dataset'):
                dataset = VisitedDataset(key, config)
                root = config.get('data_root')
                if dataset.local and isinstance(root, str) and root and not os.path.isdir(root):
                    raise UserError(
                        f'the dataset folder {root} ({key}.data_root) does not exist: put the data there or set '
                        'data_root to where it is'
                    )
                for place, entries in ((f'{key}.metainfo', config.get('metainfo') or {}), (key, config)):
                    names = entries.get('classes')
                    if (
                        isinstance(names, str)
                        and not is_remote(names)
                        and not os.path.isfile(os.path.expanduser(names))
                    ):
                        raise UserError(
                            f'{place}.classes is the text {names!r}, which is no file: write a tuple, also for one '
                            f'class, ({names!r},)'
                        )
                dataset.built = _build(dataset)
                if dataset.local:
                    _check_paths(dataset.folders, dataset.ann_file, key)
                yield dataset


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
        if dataset.local:
            root = config.get('data_root') or ''
            prefixes = (config.get('data_prefix') or {}).items()
            folders = {name: os.path.join(root, value) for name, value in prefixes if isinstance(value, str)}
            ann_file = config.get('ann_file') or ''
            _check_paths(folders, os.path.join(root, ann_file) if ann_file else '', key)
        if isinstance(error, RuntimeError) and 'data_root' in str(error) and not config.get('data_root'):
            # mmpretrain's CIFAR classes download their files by themselves, into a folder that has to be named.
            raise UserError(
                f'the dataset {config.get("type")} ({key}) has no data_root: set {key}.data_root to the folder that '
                'has the data or will get it'
            ) from error
        if describe_failure(error):
            raise
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise UserError(
            f'the dataset {config.get("type")} ({key}) cannot be built: {reason}; correct its arguments or its files'
        ) from error


def _check_paths(folders: Mapping[str, Any], ann_file: str, key: str) -> None:
    if os.path.exists(ann_file) and not os.path.isdir(ann_file):
        regular_file(ann_file, 'annotation file')
    if ann_file and not is_remote(ann_file) and not os.path.exists(ann_file):
        raise UserError(
            f'the annotation file {ann_file} ({key}.ann_file) does not exist: put it there or set ann_file '
            'and data_root'
        )
    for name, folder in folders.items():
        if isinstance(folder, str) and folder and not is_remote(folder) and not os.path.isdir(folder):
            raise UserError(
                f'the folder {folder} ({key}.data_prefix.{name}) does not exist: put the data there or set data_root '
                'and data_prefix'
            )


def check_samples(dataset: VisitedDataset) -> list[dict[str, Any]]:
    """List a dataset's samples and check that every image and label map exists, without opening them.

    ``images`` and ``unlabelled`` of the dataset are filled in.
    """
    samples, key = dataset.load_samples(), dataset.key
    dataset.images = len(samples)
    images = [sample['img_path'] for sample in samples if isinstance(sample.get('img_path'), str)]
    absent = _absent(images)
    if absent:
        where = f'{key} ({dataset.ann_file})' if dataset.ann_file else key
        raise UserError(
            f'{len(absent)} of {len(images)} images of {where} do not exist, for example {absent[0]}: add the files, '
            'or correct ann_file and data_prefix'
        )
    labels = {sample['seg_map_path']: sample for sample in samples if isinstance(sample.get('seg_map_path'), str)}
    absent = _absent(labels) if dataset.loads_labels else []
    if absent:
        raise UserError(
            f'{len(absent)} of {len(samples)} images of {key} have no label map, for example {absent[0]} (for '
            f'{labels[absent[0]].get("img_path")}): add the files, or remove the images'
        )
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
        present = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        absent += [path for path in members if os.path.basename(path) not in present]
    return absent
