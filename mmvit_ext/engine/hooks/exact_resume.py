"""Resume a run exactly: with the same samples, the same augmentation and the same dropout as without interruption."""

from collections.abc import Mapping
from typing import Any

from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch.utils.data import IterableDataset

from mmvit_ext.checkpoints.newest import newest_checkpoint
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.registry import HOOKS

from .checkpoint import accumulated_iterations, optim_wrappers
from .seeded_loading import BatchStream, PlacedBatchSampler, capture_state, restore_state, seeded_loader

__all__ = ['ExactResumeHook']

KEY = 'exact_resume'


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Makes a resumed run the run that would have been without the interruption.

    The states of all random generators are saved in each checkpoint, and order and augmentation of the training data
    depend on the place in the run, see :mod:`~.seeded_loading`. ``resume=True`` without a file takes the newest
    checkpoint that can be loaded. On a CPU a resumed run is equal bit by bit.

    Note:
        Without :class:`mmvit_ext.engine.AtomicCheckpointHook` only the first process's states are saved. Number of
        processes and batch size have to stay the same. Save at multiples of the accumulation of gradients.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._placed: PlacedBatchSampler | None = None
        self._sampler_seed: int | None = None
        self._iterative = self._warned = False
        self._before_val: dict[str, Any] | None = None
        self._gathered: list[dict[str, Any]] | None = None
        self._saved: Mapping[str, Any] | None = None
        self._offset = 0

    def before_run(self, runner: Runner) -> None:
        """Name the newest loadable checkpoint where mmengine would take what ``last_checkpoint`` says."""
        if runner._resume and runner._load_from is None and runner._train_loop is not None:
            base = str(runner.work_dir).rstrip('/').rsplit('/', 1)[-1]
            folders = [getattr(hook, 'out_dir', None) for hook in runner.hooks]
            newest = newest_checkpoint(runner.work_dir, [f'{folder}/{base}' for folder in folders if folder])
            for note in newest.notes():
                runner.logger.warning(note)
            # Without one, mmengine would follow whatever path stands in last_checkpoint.
            runner._load_from, runner._resume = newest.path, newest.path is not None

    def after_load_checkpoint(self, runner: Runner, checkpoint: Mapping[str, Any]) -> None:
        if runner._resume and runner._train_loop is not None:
            self._saved = checkpoint.get(KEY) or {}
            states = self._saved.get('generators') or [] if isinstance(self._saved, Mapping) else None
            if not isinstance(states, list) or not all(isinstance(state, Mapping) for state in states):
                remedy = 'update mmvit_ext, or start from its weights with load_from'
                raise UserError(f'the checkpoint {runner._load_from} has {KEY} in an unknown form: {remedy}')

    def before_train(self, runner: Runner) -> None:
        loop = runner.train_loop
        self._iterative = hasattr(loop, 'dataloader_iterator')
        if isinstance(runner.optim_wrapper, OptimWrapperDict):  # whose own method for this does nothing
            for wrapper in optim_wrappers(runner):
                wrapper.initialize_count_status(runner.model, runner.iter, runner.max_iters)
        count = runner.world_size if self._saved is None else len(self._saved.get('generators') or [])
        if count != runner.world_size:
            found = f'the states of the random generators of {count} processes, now there are {runner.world_size}'
            if not count:
                found = 'no states of the random generators (it was saved without mmvit_ext.ExactResumeHook)'
            difference = 'the run continues, but not as it would have without the interruption'
            runner.logger.warning(f'the checkpoint has {found}: {difference}')
        config, loader = runner._train_dataloader, loop.dataloader
        ready = isinstance(config, Mapping) and isinstance(config.get('sampler'), Mapping)
        if not ready or isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
            needed = 'this needs train_dataloader and its sampler as configs, batches, and a dataset with indices'
            runner.logger.warning(f'the order of the training data is not restored by a resumed run: {needed}')
            return
        seed, saved = int(runner.seed), (self._saved or {}).get('sampler_seed')
        sampler_seed = None if runner._randomness_cfg.get('diff_rank_seed') else seed
        sampler_seed = sampler_seed if saved is None else int(saved)
        loader, self._placed = seeded_loader(loader, config, seed, sampler_seed, self._iterative)
        self._sampler_seed = getattr(getattr(self._placed, 'sampler', None), 'seed', None)
        loop.dataloader = loader
        if self._iterative:
            skips = hasattr(loop.dataloader_iterator, 'skip_iter')
            self._placed.begin(0, runner.iter)
            loop.dataloader_iterator = BatchStream(loader, 0 if skips else runner.iter)
        else:
            self._offset = runner.iter - runner.epoch * len(loader)
            if not 0 <= self._offset <= len(loader):
                self._offset, place = 0, f'iteration {runner.iter} in epoch {runner.epoch}'
                now = f'an epoch has {len(loader)} iterations now: the epoch begins anew'
                runner.logger.warning(f'the checkpoint is of {place}, but {now}')

    def before_train_epoch(self, runner: Runner) -> None:
        """Begin where the checkpoint was saved, also inside an epoch."""
        if self._placed is not None and not self._iterative:
            self._placed.begin(runner.epoch, self._offset)
            self._offset = 0

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Restore the random generators, once: nothing in a run is later than this and before the model's step."""
        if self._saved is None:
            return
        states, self._saved = self._saved.get('generators'), None
        if states:
            restore_state(states[runner.rank if runner.rank < len(states) else 0])

    def before_val(self, runner: Runner) -> None:
        if runner._train_loop is not None:
            self._before_val = capture_state()

    def after_val(self, runner: Runner) -> None:
        if self._before_val is not None:
            restore_state(self._before_val)
            self._before_val = None

    def before_collective_save(self, runner: Runner) -> None:
        """Gather the states of all processes; :class:`mmvit_ext.engine.AtomicCheckpointHook` calls it in each."""
        self._gathered = all_gather_object(self._state())

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the states to a checkpoint that a run can go on from."""
        if 'optimizer' not in checkpoint:
            return
        states, self._gathered = self._gathered or [self._state()], None
        if len(states) != runner.world_size:
            remedy = 'for all of them, use mmvit_ext.AtomicCheckpointHook as default_hooks.checkpoint'
            runner.logger.warning(f'only the first process saves the states of its random generators: {remedy}')
        iteration, accumulated = int(checkpoint['meta']['iter']), accumulated_iterations(runner)
        if iteration % accumulated and not self._warned:
            self._warned = True
            lost = 'the gradients collected so far are not in this checkpoint, a run that continues from it differs'
            runner.logger.warning(f'iteration {iteration} is no multiple of the {accumulated} accumulated ones: {lost}')
        checkpoint[KEY] = {'generators': states, 'sampler_seed': self._sampler_seed}

    def _state(self) -> dict[str, Any]:
        return self._before_val or capture_state()
