"""Train an mmseg, mmdet or mmpretrain config: what can be wrong is looked for before anything is built or written."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmengine.config import Config, ConfigDict

from mmvit_ext.checkpoints.newest import newest_checkpoint
from mmvit_ext.checks.before_run import check_before_run
from mmvit_ext.checks.normalisation import check_normalisation
from mmvit_ext.config.adjust import set_layer_decay, set_lr_scaling, set_optimizer, set_precision, set_tolerance
from mmvit_ext.engine.hooks.compiled_blocks import CompiledBlocksHook
from mmvit_ext.engine.hooks.nonfinite import NonFiniteHook
from mmvit_ext.engine.hooks.progress import ProgressHook
from mmvit_ext.engine.hooks.reports import BatchSizeHook, MetricsHook, SkippedSamplesHook, WeightsReportHook
from mmvit_ext.engine.hooks.resumed_config import ResumedConfigHook
from mmvit_ext.engine.runner import build_runner, load_run, running
from mmvit_ext.errors import UserError, same_on_every_process
from mmvit_ext.machine import float32_products

__all__ = ['train']

INFO_HOOK = 'mmvit_ext.DeferredInfoHook'
NOT_DETERMINISTIC = ' does not have a deterministic implementation'
"""What PyTorch says behind the name of an operation where it has to be deterministic and is not."""


def train(
    config: str,
    *,
    work_dir: str | None = None,
    resume: str | None = None,
    amp: bool | None = None,
    tf32: bool = True,
    auto_scale_lr: bool = False,
    compile: bool = False,
    compile_blocks: str = 'auto',
    seed: int | None = None,
    skip_nonfinite: int | None = None,
    skip_bad_samples: float | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    launcher: str = 'none',
    allow_partial: bool = False,
    trust: bool = False,
) -> None:
    """Train.

    Args:
        config: The config file.
        work_dir: Folder of logs and checkpoints; by default ``work_dirs/NAME_OF_THE_CONFIG``.
        resume: The checkpoint to continue from, ``'auto'`` for the newest one in the folder that can be loaded.
        amp: Mixed precision: bfloat16, on GPUs without it float16 with a scaled loss. None: on a GPU, but not on a CPU.
        tf32: Whether a GPU may multiply what stays in float32 with 10 bits of the mantissa, which is several times
            quicker.
        auto_scale_lr: Scale the learning rate to the total batch size.
        compile: Compile the training step with ``torch.compile``.
        compile_blocks: Compile each repeated block of the model: ``'auto'`` on a GPU, ``'on'``, ``'graphs'`` with CUDA
            graphs, for crops of one size, or ``'off'``.
        seed: Seed of every random generator.
        skip_nonfinite: How many updates with losses or gradients that are not finite are left out before it stops.
        skip_bad_samples: How many samples that cannot be read are left out before it stops; below 1 a fraction.
        cfg_options: Overrides of the config by dotted key.
        launcher: How distributed processes were started: 'none', 'pytorch', 'slurm' or 'mpi'.
        allow_partial: Only report pretrained weights that do not fit the model.
        trust: Read checkpoints that hold more than tensors and plain values, which runs code from them.

    Raises:
        UserError: Something is wrong with the arguments, the config or the files it names.
    """
    with same_on_every_process():
        sections = ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
        cfg = load_run(config, cfg_options, 'training', sections, work_dir, launcher)
        notes = _set_resume(cfg, resume)
        notes += [*set_precision(cfg, amp), *set_layer_decay(cfg)]
        set_optimizer(cfg)
        cfg.setdefault('default_hooks', ConfigDict()).setdefault('runtime_info', ConfigDict(type=INFO_HOOK))
        set_tolerance(cfg, skip_nonfinite, skip_bad_samples)
        if seed is not None:
            cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': seed}
        if compile and not cfg.get('compile'):  # the config may say how: compile=dict(mode=...)
            cfg.compile = True
        if auto_scale_lr:
            set_lr_scaling(cfg)
        splits = ['train'] if cfg.get('val_cfg') is None else ['train', 'val']
        notes += check_before_run(cfg, cfg.default_scope, splits)
        warnings = check_normalisation(cfg, cfg.default_scope, 'train')
    kinds = BatchSizeHook, NonFiniteHook, SkippedSamplesHook, MetricsHook, ResumedConfigHook
    hooks = [WeightsReportHook(allow_partial), CompiledBlocksHook(compile_blocks), *(kind() for kind in kinds)]
    folders = {'--work-dir': cfg.work_dir, 'default_hooks.checkpoint.out_dir': _checkpoint_folder(cfg)}
    with running(launcher, folders), float32_products(tf32=tf32), _deterministic(cfg), ProgressHook() as progress:
        build_runner(cfg, [*hooks, progress], notes, warnings, trust=trust).train()


@contextmanager
def _deterministic(cfg: Config) -> Iterator[None]:
    """Prepare a deterministic run on a GPU, and say in a sentence which operation has no such form."""
    if not (cfg.get('randomness') or {}).get('deterministic'):
        yield
        return
    os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # without it PyTorch refuses products on a GPU
    try:
        yield
    except RuntimeError as error:
        if NOT_DETERMINISTIC not in str(error):
            raise
        operation = str(error).partition(NOT_DETERMINISTIC)[0].strip()
        remedy = 'set randomness.deterministic=False, or train on a CPU'
        raise UserError(
            f'randomness.deterministic: {operation} has no deterministic form on a GPU: {remedy}'
        ) from error


def _checkpoint_folder(cfg: Config) -> str | None:
    """Where the checkpoints are if not in ``work_dir``."""
    out_dir = ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('out_dir')
    return os.path.join(out_dir, os.path.basename(os.path.normpath(cfg.work_dir))) if out_dir else None


def _set_resume(cfg: Config, resume: str | None) -> list[str]:
    """Set from which checkpoint a run continues, after a restart by its launcher the newest; returns lines to log."""
    restarts = int(os.environ.get('TORCHELASTIC_RESTART_COUNT', '0'))
    if resume is None and (restarts or cfg.get('resume')):
        resume = (cfg.get('resume') and cfg.get('load_from')) or 'auto'
    if resume is None:
        return []
    cfg.resume = True
    if resume != 'auto' and not restarts:
        cfg.load_from = resume
        return []
    folders = filter(None, [_checkpoint_folder(cfg)])
    newest = newest_checkpoint(cfg.work_dir, folders, restarted=bool(restarts))
    notes = [f'started again by the launcher ({restarts})'] if restarts else []
    if newest.path is not None or resume != 'auto':
        cfg.load_from = newest.path or resume
        return notes + newest.notes()
    # load_from stays: a run that has not written a checkpoint yet starts as it did the first time.
    cfg.resume = False
    return [*notes, f'--resume: no checkpoint in {cfg.work_dir}, training starts from the beginning']
