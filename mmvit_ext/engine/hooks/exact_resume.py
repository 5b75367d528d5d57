"""Resume a run exactly: with the same samples, the same augmentation and the same dropout as without interruption."""

from collections.abc import Mapping
from typing import Any

from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader, IterableDataset

from mmvit_ext.checkpoints.newest import newest_checkpoint
from mmvit_ext.engine.hooks import random_state
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.registry import HOOKS

from .checkpoint import accumulated_iterations
from .seeded_loading import BatchStream, PlacedBatchSampler, seeded_loader

__all__ = ['ExactResumeHook']

KEY = 'exact_resume'


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Makes a resumed run the run that would have been without the interruption.

    The states of all random generators are saved in each checkpoint, and order and augmentation of the training data
    depend on the place in the run, see :mod:`~.seeded_loading`. ``resume=True`` without a file takes the newest
    checkpoint that can be loaded. On a CPU a resumed run is equal bit by bit.

    Note:
        The processes' states are gathered by :class:`mmvit_ext.engine.AtomicCheckpointHook`; with another checkpoint
        hook those of the first process alone are saved. Number of processes and batch size have to stay the same.
        Gradients that are accumulated over iterations are not in a checkpoint: save at multiples of the accumulation.
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
            newest = newest_checkpoint(runner.work_dir, checkpoint_folders(runner))
            for note in newest.notes():
                runner.logger.warning(note)
            # Without one, mmengine would follow whatever path stands in last_checkpoint.
            runner._load_from, runner._resume = newest.path, newest.path is not None

    def after_load_checkpoint(self, runner: Runner, checkpoint: Mapping[str, Any]) -> None:
        """Keep the states of a resumed checkpoint until the first iteration."""
        if runner._resume and runner._train_loop is not None:
            self._saved = checkpoint.get(KEY) or {}
            states = self._saved.get('generators') or [] if isinstance(self._saved, Mapping) else None
            if not isinstance(states, list) or not all(isinstance(state, Mapping) for state in states):
                raise UserError(
                    f'the checkpoint {runner._load_from} has states of random generators ({KEY}) in a form that this '
                    'version does not know: update mmvit_ext, or start from its weights with load_from'
                )

    def before_train(self, runner: Runner) -> None:
        """Tie the training data to the place in the run."""
        loop = runner.train_loop
        self._iterative = hasattr(loop, 'dataloader_iterator')
        count = runner.world_size if self._saved is None else len(self._saved.get('generators') or [])
        if count != runner.world_size:
            found = (
                f'the states of the random generators of {count} processes, now there are {runner.world_size}'
                if count
                else 'no states of the random generators (it was saved without mmvit_ext.ExactResumeHook)'
            )
            runner.logger.warning(
                f'the checkpoint has {found}: the run continues, but not as it would have without the interruption'
            )
        config = runner._train_dataloader
        if reason := _unsupported(loop.dataloader, config):
            runner.logger.warning(f'the order of the training data is not restored by a resumed run: {reason}')
            return
        seed = int(runner.seed)
        sampler_seed = None if runner._randomness_cfg.get('diff_rank_seed') else seed
        if self._saved and self._saved.get('sampler_seed') is not None:
            sampler_seed = int(self._saved['sampler_seed'])
        loader, self._placed = seeded_loader(loop.dataloader, config, seed, sampler_seed, self._iterative)
        self._sampler_seed = getattr(getattr(self._placed, 'sampler', None), 'seed', None)
        loop.dataloader = loader
        if self._iterative:
            skips = hasattr(loop.dataloader_iterator, 'skip_iter')
            self._placed.begin(0, runner.iter)
            loop.dataloader_iterator = BatchStream(loader, 0 if skips else runner.iter)
        else:
            self._offset = runner.iter - runner.epoch * len(loader)
            if not 0 <= self._offset <= len(loader):
                runner.logger.warning(
                    f'the checkpoint is of iteration {runner.iter} in epoch {runner.epoch}, but an epoch has '
                    f'{len(loader)} iterations now: the epoch begins anew'
                )
                self._offset = 0

    def before_train_epoch(self, runner: Runner) -> None:
        """Begin where the checkpoint was saved, also inside an epoch."""
        if self._placed is not None and not self._iterative:
            self._placed.begin(runner.epoch, self._offset)
            self._offset = 0

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Restore the random generators, once: nothing in a run is later than this and before the model's step."""
        if self._saved is None:
            return
        states = self._saved.get('generators')
        self._saved = None
        if states:
            random_state.restore(states[runner.rank if runner.rank < len(states) else 0])

    def before_val(self, runner: Runner) -> None:
        if runner._train_loop is not None:
            self._before_val = random_state.capture()

    def after_val(self, runner: Runner) -> None:
        if self._before_val is not None:
            random_state.restore(self._before_val)
            self._before_val = None

    def before_collective_save(self, runner: Runner) -> None:
        """Gather the states of all processes; :class:`mmvit_ext.engine.AtomicCheckpointHook` calls it in each."""
        self._gathered = all_gather_object(self._state())

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the states to a checkpoint that a run can go on from."""
        if 'optimizer' not in checkpoint:
            return
        states = self._gathered or [self._state()]
        self._gathered = None
        if len(states) != runner.world_size:
            runner.logger.warning(
                'only the first process saves the states of its random generators: use mmvit_ext.AtomicCheckpointHook '
                'as default_hooks.checkpoint for an exact resume of distributed training'
            )
        accumulated = accumulated_iterations(runner)
        if int(checkpoint['meta']['iter']) % accumulated and not self._warned:
            self._warned = True
            runner.logger.warning(
                f'iteration {checkpoint["meta"]["iter"]} is no multiple of the {accumulated} accumulated ones: the '
                'gradients collected so far are not in this checkpoint, a run that continues from it differs'
            )
        checkpoint[KEY] = {'generators': states, 'sampler_seed': self._sampler_seed}

    def _state(self) -> dict[str, Any]:
        return self._before_val or random_state.capture()


def checkpoint_folders(runner: Runner) -> list[str]:
    """Where the checkpoint hooks of a run save besides its ``work_dir``."""
    folders = [getattr(hook, 'out_dir', None) for hook in runner.hooks]
    base = str(runner.work_dir).rstrip('/').rsplit('/', 1)[-1]
    return [f'{folder}/{base}' for folder in folders if folder]


def _unsupported(loader: DataLoader, config: Any) -> str | None:
    if not isinstance(config, Mapping):
        return 'its data loader was built before the runner; give train_dataloader as a config'
    if isinstance(loader.dataset, IterableDataset):
        return 'its dataset has no indices'
    if loader.batch_sampler is None:
        return 'its data loader makes no batches'
    if not isinstance(config.get('sampler'), Mapping):
        return 'its sampler was built before the runner; give it as a config'
    return None
