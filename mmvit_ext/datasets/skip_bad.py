"""Replace training samples that cannot be read by the next ones, and count and name them."""

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from mmengine import fileio
from mmengine.logging import print_log
from mmengine.registry import DATASETS as ALL_DATASETS

from mmvit_ext.errors.failures import describe_failure
from mmvit_ext.errors.user_error import UserError

from ..registry import DATASETS
from .transforms import refuse_cut_off

__all__ = ['SkipBadSamples']


@DATASETS.register_module()
class SkipBadSamples:
    """A training dataset around another one, which gives the next sample in place of one that cannot be read.

    Without it the first bad sample ends the run with the file's name. With it each bad sample is named in the log once,
    and the run ends when there are more than ``limit``. The samples are marked in memory that the workers of a
    dataloader share, so each is tried only once per process of a distributed run, and :attr:`num_skipped` is the
    number of different bad samples for any ``num_workers``.

    Args:
        dataset: The dataset, or its config. It must be for training: a metric would count the replacements.
        limit: Number of different bad samples to tolerate, or a fraction of the dataset if below 1. More than 0.
        check_files: Check that the JPEG or PNG file is complete before the sample is loaded. Some versions of OpenCV,
            which the libraries' pipelines use, decode a cut off file without an error. It reads the file once more,
            mostly from the operating system's cache. Pipelines with ``mmvit_ext.LoadImageFromFile`` do it themselves.

    Raises:
        UserError: There are more bad samples than ``limit``; names the last one.
    """

    def __init__(self, dataset: Any, limit: float = 0.01, check_files: bool = True) -> None:
        if isinstance(limit, bool) or not limit > 0 or not math.isfinite(limit):
            raise ValueError(f'limit must be a number of samples or a fraction below 1, more than 0, got {limit!r}')
        self.dataset = ALL_DATASETS.build(dataset) if isinstance(dataset, Mapping) else dataset
        if getattr(self.dataset, 'test_mode', False):
            remedy = 'use it for training only and repair the files, which tools/check_dataset.py lists'
            raise UserError(f'SkipBadSamples has test_mode=True: a metric would count other samples twice; {remedy}')
        self.limit = limit
        steps = getattr(getattr(self.dataset, 'pipeline', None), 'transforms', None) or []
        from_us = any(type(step).__module__ == 'mmvit_ext.datasets.transforms' for step in steps)
        self.check_files = check_files and not from_us
        self._bad: torch.Tensor | None = None
        if getattr(self.dataset, '_fully_initialized', True):
            self.full_init()

    @property
    def metainfo(self) -> dict[str, Any]:
        """Of the dataset within."""
        return self.dataset.metainfo

    @property
    def num_skipped(self) -> int:
        """Number of different samples that could not be read so far, in all workers of this process."""
        return 0 if self._bad is None else int(self._bad.sum())

    def full_init(self) -> None:
        """Load the annotations of the dataset within."""
        if hasattr(self.dataset, 'full_init'):
            self.dataset.full_init()
        if self._bad is None or len(self._bad) != len(self.dataset):
            self._bad = torch.zeros(len(self.dataset), dtype=torch.uint8).share_memory_()

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """The annotation of a sample, which samplers ask for."""
        return self.dataset.get_data_info(idx)

    def get_cat_ids(self, idx: int) -> list[int]:
        """The classes of a sample, which samplers and class-balanced datasets ask for."""
        return self.dataset.get_cat_ids(idx)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, idx: int) -> Any:
        if self._bad is None:
            self.full_init()
        assert self._bad is not None
        size = len(self)
        for offset in range(size):
            # The next one, not a random one: which sample it is must not depend on the state of a generator.
            candidate = (int(idx) + offset) % size
            if self._bad[candidate]:
                # The batch in which the limit was exceeded may have been loaded ahead and never been asked for.
                self._check_limit(f'{self._path(candidate) or candidate}, which was found before')
                continue
            try:
                self._check_file(candidate)
                return self.dataset[candidate]
            except Exception as error:
                decoder = type(error).__module__.partition('.')[0] in ('PIL', 'cv2')
                unreadable = isinstance(error, UserError | OSError) or str(error).startswith('failed to load image')
                if not decoder and not unreadable:
                    raise  # a fault of the program and not of the sample
                reason = describe_failure(error) or f'{type(error).__name__}: {" ".join(str(error).split())}'
                path = self._path(candidate)
                reason = reason if not path or path in reason else f'{path}: {reason}'
                self._bad[candidate] = 1
                self._check_limit(reason)
                print_log(f'bad sample {self.num_skipped} left out: {reason}', 'current', logging.WARNING)
        raise UserError(f'none of the {size} samples of the dataset can be read')

    def _check_file(self, idx: int) -> None:
        path = self._path(idx) if self.check_files else None
        if path is not None:
            refuse_cut_off(path, fileio.get(path, backend_args=getattr(self.dataset, 'backend_args', None)))

    def _path(self, idx: int) -> str | None:
        path = self.dataset.get_data_info(idx).get('img_path') if hasattr(self.dataset, 'get_data_info') else None
        return path if isinstance(path, str) else None

    def _check_limit(self, reason: str) -> None:
        count, allowed = self.num_skipped, self.limit if self.limit >= 1 else self.limit * len(self)
        if count > allowed:
            found = f'{count} of {len(self)} samples could not be read, more than the limit of {self.limit}'
            raise UserError(f'{found}; the last one: {reason}; tools/check_dataset.py lists them all')
