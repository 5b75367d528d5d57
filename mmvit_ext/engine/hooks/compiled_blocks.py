"""Compiled blocks in training and testing."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmvit_ext.engine.hooks.reports import bare_model
from mmvit_ext.errors import UserError
from mmvit_ext.models.compiled import compile_blocks
from mmvit_ext.registry import HOOKS

__all__ = ['BLOCK_MODES', 'CompiledBlocksHook']

BLOCK_MODES = ('auto', 'on', 'graphs', 'off')


@HOOKS.register_module()
class CompiledBlocksHook(Hook):
    """Compile each repeated block of the model with ``torch.compile`` before the first iteration.

    Args:
        mode: ``'auto'`` compiles on a GPU, unless the config's ``compile`` compiles the whole training step, and runs
            what cannot be compiled as it is; ``'on'`` compiles anywhere; ``'graphs'`` also launches the kernels of
            a block as one CUDA graph, for crops of a fixed size; ``'off'`` compiles nothing.

    Raises:
        UserError: There is no such mode.
    """

    def __init__(self, mode: str = 'auto') -> None:
        if mode not in BLOCK_MODES:
            raise UserError(f'CompiledBlocksHook: mode must be one of {", ".join(BLOCK_MODES)}, got {mode!r}')
        self.mode = mode

    def before_train(self, runner: Runner) -> None:
        self._compile(runner)

    def before_test(self, runner: Runner) -> None:
        self._compile(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if self.mode == 'graphs' and hasattr(torch.compiler, 'cudagraph_mark_step_begin'):
            torch.compiler.cudagraph_mark_step_begin()  # results of the last iteration may be overwritten

    def _compile(self, runner: Runner) -> None:
        model = bare_model(runner.model)
        whole = bool(runner.cfg.get('compile'))
        on_gpu = any(parameter.is_cuda for parameter in model.parameters())
        if self.mode == 'off' or (self.mode == 'auto' and (whole or not on_gpu)):
            return
        done = compile_blocks(model, graphs=self.mode == 'graphs', fall_back=self.mode == 'auto')
        runner.logger.info(done)
