"""Training data whose order and augmentation depend on the place in the run alone.

Every index that the sampler yields has its place: which batch of the run or epoch, which sample of the batch. The
dataset seeds the random generators with it before it loads the sample.
"""

import random
from collections.abc import Iterator, Mapping
from itertools import chain, repeat
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import BatchSampler, DataLoader, get_worker_info

__all__ = ['BatchStream', 'PlacedBatchSampler', 'PlacedIndex', 'SeededDataset', 'capture_state', 'restore_state']
__all__ += ['seeded_loader']

KEPT_OPTIONS = ['num_workers', 'collate_fn', 'pin_memory', 'timeout', 'worker_init_fn', 'multiprocessing_context']
KEPT_OPTIONS += ['prefetch_factor', 'persistent_workers', 'pin_memory_device']


def capture_state(gpu: bool = True) -> dict[str, Any]:
    """The states of this process's generators, if wanted of its GPUs too, as ``weights_only=True`` loads them."""
    numpy_state: Any = np.random.get_state()  # noqa: NPY002
    name, keys, *rest = numpy_state
    cuda = torch.cuda.get_rng_state_all() if gpu and torch.cuda.is_available() else None
    words = (name, keys.tolist(), *rest)
    return {'python': random.getstate(), 'numpy': words, 'torch': torch.get_rng_state(), 'cuda': cuda}


def restore_state(state: dict[str, Any]) -> None:
    """Restore what :func:`capture_state` returned; its tensors may be on another device by now."""
    random.setstate(state['python'])
    np.random.set_state(state['numpy'])  # noqa: NPY002
    torch.set_rng_state(state['torch'].cpu())
    if state['cuda'] is not None and torch.cuda.is_available():
        if torch.is_tensor(state['cuda']):  # as older checkpoints have it: the current device's alone
            torch.cuda.set_rng_state(state['cuda'].cpu())
            return
        for device, saved in enumerate(state['cuda'][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(saved.cpu(), device)


class PlacedIndex(int):
    """An index into a dataset that knows its place in the run: numbers that no other sample of the run has."""

    place: tuple[int, ...]

    def __new__(cls, index: int, place: tuple[int, ...]) -> 'PlacedIndex':
        self = super().__new__(cls, index)
        self.place = place
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return PlacedIndex, (int(self), self.place)


class PlacedBatchSampler:
    """Batches of a new batch sampler with their places, from any batch of the run on, once over or ``endless``."""

    def __init__(self, batches: Any, endless: bool) -> None:
        self.batches, self.endless = batches, endless
        self._epoch = self._start = 0

    @property
    def sampler(self) -> Any:
        """The sampler below, where mmengine looks for ``set_epoch``."""
        return self.batches.sampler

    @property
    def batch_size(self) -> int:
        return int(self.batches.batch_size)

    def begin(self, epoch: int, start: int) -> None:
        """Skip ``start`` batches of an epoch at the next iteration; the epoch is 0 with iteration-based training."""
        self._epoch, self._start = epoch, start

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[PlacedIndex]]:
        start, self._start = self._start, 0
        number, turn = 0, 0
        while True:
            before = number
            for batch in self.batches:
                if number >= start:
                    yield [PlacedIndex(index, (self._epoch, number, item)) for item, index in enumerate(batch)]
                number += 1
            if not self.endless or number == before:
                return
            turn += 1
            if hasattr(self.sampler, 'set_epoch'):
                self.sampler.set_epoch(turn)


class SeededDataset:
    """A dataset that seeds the CPU's generators with place and rank of each sample; the main process restores them."""

    def __init__(self, dataset: Any, seed: int, rank: int) -> None:
        self.__dict__.update(dataset=dataset, _seed=seed, _rank=rank)

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') or 'dataset' not in self.__dict__:  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__dict__['dataset'], name, value)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        if not isinstance(index, PlacedIndex):
            return self.dataset[index]
        state = capture_state(gpu=False) if get_worker_info() is None else None
        try:
            words = np.random.SeedSequence((self._seed, self._rank, *index.place)).generate_state(4)
            random.seed(int(words[0]))
            np.random.seed(int(words[1]))  # noqa: NPY002, what the libraries' transforms draw from
            # torch.manual_seed would seed the GPUs, too, and in the main process those belong to the model
            torch.default_generator.manual_seed(int(words[2]) << 32 | int(words[3]))
            return self.dataset[int(index)]
        finally:
            if state is not None:
                restore_state(state)


def seeded_loader(
    loader: DataLoader, config: Mapping[str, Any], seed: int, sampler_seed: int | None, endless: bool
) -> tuple[DataLoader, PlacedBatchSampler]:
    """A data loader as the given one, with a new batch sampler and augmentation tied to the place in the run."""
    defaults = {'dataset': loader.dataset, 'seed': sampler_seed}
    sampler = DATA_SAMPLERS.build(dict(config['sampler']), default_args=defaults)
    batches = config.get('batch_sampler')
    if isinstance(batches, Mapping):
        defaults = {'sampler': sampler, 'batch_size': config['batch_size']}
        batches = DATA_SAMPLERS.build(dict(batches), default_args=defaults)
    elif batches is None:
        batches = BatchSampler(sampler, loader.batch_size or 1, loader.drop_last)
    placed = PlacedBatchSampler(batches, endless)
    options: dict[str, Any] = {name: getattr(loader, name) for name in KEPT_OPTIONS}
    # Its own generator: the seeds that workers start with are otherwise drawn from the model's randomness.
    generator = torch.Generator().manual_seed(seed)
    dataset: Any = SeededDataset(loader.dataset, seed, get_rank())
    new: DataLoader = DataLoader(dataset, batch_sampler=placed, generator=generator, **options)  # type: ignore[arg-type]
    new.__dict__['batch_size'] = loader.batch_size  # which hooks ask for; PyTorch sets None beside a batch sampler
    return new, placed


class BatchStream:
    """The iterator over a loader that begins at the right batch; an old mmengine takes and drops ``skipped`` first."""

    def __init__(self, loader: DataLoader, skipped: int) -> None:
        self._batches = chain(repeat(None, skipped), (batch for part in (loader,) for batch in part))

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._batches)

    def skip_iter(self, count: int) -> None:
        """Newer versions of mmengine call this to skip batches; the place is known already."""
