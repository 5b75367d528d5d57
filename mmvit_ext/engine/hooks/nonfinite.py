"""Stop a run, or leave updates out, where losses or gradients are not finite right before the optimizer's step."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from mmvit_ext.errors import UserError, same_on_every_process
from mmvit_ext.registry import HOOKS

from .checkpoint import AtomicCheckpointHook
from .deferred_info import HostCopy, wrappers_by_name
from .reports import bare_model

__all__ = ['NonFiniteError', 'NonFiniteHook', 'image_paths']

_SHOWN = 4
_INFO = 'nonfinite_updates'
MAX_OVERFLOWS = 20  # after as many the scale of PyTorch's gradient scaler is 2^-4


class NonFiniteError(UserError):
    """Losses or gradients were infinite or not a number."""


@dataclass
class _Step:
    """What a watched optimizer did since the last iteration was closed."""

    names: list[str] = field(default_factory=list)
    norms: torch.Tensor | None = None  # of each gradient, on the device
    called: bool = False
    scaled: bool = False  # whether a gradient scaler may leave the step out, as it does where gradients overflow
    overflowed: torch.Tensor | None = None  # its verdict, on the device, where the optimizer itself obeys it

    @property
    def left_out(self) -> bool:
        """Whether a gradient scaler has not even called the optimizer."""
        return self.scaled and not self.called


@dataclass
class _Iteration:
    """What is looked at of an iteration, whose verdict is on its way from the device."""

    number: int
    losses: list[tuple[str, torch.Tensor]]
    steps: dict[str, _Step]
    paths: list[str]
    verdict: HostCopy  # whether something is not finite, and whether gradients overflowed, on any process


def image_paths(data_batch: Any) -> list[str]:
    """The image files of a batch of mmseg, mmdet or mmpretrain, as far as its samples carry their paths."""
    if isinstance(data_batch, Mapping):
        return image_paths(data_batch.get('data_samples'))
    if isinstance(data_batch, list | tuple):
        return [path for entry in data_batch for path in image_paths(entry)]
    metainfo = getattr(data_batch, 'metainfo', None)
    path = metainfo.get('img_path') if isinstance(metainfo, Mapping) else None
    return [str(path)] if path else []


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Stops the run at the first infinite or NaN loss or gradient, naming iteration, loss keys, parameters and images.

    With ``max_skips`` the update is left out instead: parameters and moments stay as they are. All processes decide
    alike. Steps that a gradient scaler leaves out because of overflows are not counted, unless they are 20 in a row.

    A verdict is read an iteration later, so that the host does not wait for the device, but before anything is
    validated or saved: no checkpoint holds a broken update. With ``max_skips`` the host waits before each update.

    Args:
        max_skips: Number of updates that are left out before the run stops, over resumes too, at least 0.

    Raises:
        NonFiniteError: At the end of the iteration, or of the next one.

    Note:
        Running statistics of a batch norm that have become NaN cannot be restored, so they stop the run in any case.
    """

    # After RuntimeInfoHook has read the losses; before anything is averaged, logged or saved.
    priority = 'HIGH'

    def __init__(self, max_skips: int = 0) -> None:
        if not isinstance(max_skips, int) or isinstance(max_skips, bool) or max_skips < 0:
            raise ValueError(f'max_skips must be an integer of at least 0, got {max_skips!r}')
        self.max_skips, self._skipped, self._overflows = max_skips, 0, 0
        self._steps: dict[str, _Step] = {}
        self._handles: list[Any] = []
        self._paths: list[str] = []  # of the batches since the last update
        self._losses: list[tuple[str, torch.Tensor]] = []
        self._waiting: _Iteration | None = None
        self._late = True

    def before_train(self, runner: Runner) -> None:
        self._close()
        self._skipped = int(runner.message_hub.get_info(_INFO, 0) or 0)
        names = {id(parameter): name for name, parameter in bare_model(runner.model).named_parameters()}
        for key, wrapper in wrappers_by_name(runner.optim_wrapper).items():
            optimizer = getattr(wrapper, 'optimizer', None)
            if isinstance(optimizer, torch.optim.Optimizer):
                self._steps[key] = _Step()
                watch: Any = partial(self._before_step, key, names)
                # A compiled train step would be traced into it, in vain: it asks for values.
                watch = torch.compiler.disable(watch) if runner.cfg.get('compile') else watch
                self._handles.append(optimizer.register_step_pre_hook(watch))
        # Only ours tells all processes that it is going to save, and a verdict is theirs together.
        saving = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
        self._late = runner.world_size == 1 or all(isinstance(hook, AtomicCheckpointHook) for hook in saving)

    def before_val(self, runner: Runner) -> None:
        self._settle(runner)

    def before_collective_save(self, runner: Runner) -> None:
        self._settle(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        skipped = self._skipped
        self._settle(runner)
        if self._skipped != skipped:  # a checkpoint has the message hub's state already
            checkpoint['message_hub'] = runner.message_hub.state_dict()

    def after_train(self, runner: Runner) -> None:
        self._settle(runner)
        if self._skipped:
            runner.logger.warning(f'non-finite: {self._skipped} updates were left out or had a loss that is not finite')
        self._close()

    def _close(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._steps, self._paths, self._losses, self._overflows = [], {}, [], [], 0
        self._waiting = None

    def _before_step(
        self, key: str, names: Mapping[int, str], optimizer: torch.optim.Optimizer, args: Any, kwargs: Any
    ) -> None:
        step = self._steps[key]
        parameters = [p for group in optimizer.param_groups for p in group['params'] if p.grad is not None]
        step.called = True
        found = getattr(optimizer, 'found_inf', None)
        if found is not None:  # a scaler has looked at all gradients, and a fused optimizer leaves the step out itself
            step.overflowed = found if step.overflowed is None else torch.maximum(step.overflowed, found)
            return
        norms = _gradient_norms([p.grad for p in parameters])
        step.names += [names.get(id(p), 'a parameter') for p in parameters]
        # An optimizer may step more than once in an iteration, as a discriminator's does.
        step.norms = norms if step.norms is None else step.norms if norms is None else torch.cat([step.norms, norms])
        # Only one process may have seen it where the gradients are sharded.
        if self.max_skips and _any_nonfinite(norms, parameters):
            for parameter in parameters:
                parameter.grad = None

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        wrappers = wrappers_by_name(runner.optim_wrapper)
        self._paths += image_paths(data_batch)
        losses = {name: value for name, value in (outputs or {}).items() if 'loss' in name and torch.is_tensor(value)}
        self._losses += [(name, x.detach().float().mean()) for name, x in losses.items() if x.is_floating_point()]
        accumulates = not all(wrapper.should_update() for wrapper in wrappers.values())
        if accumulates and self.max_skips:
            return  # one update is one count, however many batches it is made of
        for key, step in self._steps.items():
            step.scaled = _scales(wrappers[key]) and wrappers[key].should_update()
        values = [torch.stack([value for _, value in self._losses])] if self._losses else []
        values += [step.norms for step in self._steps.values() if step.norms is not None]
        overflows = [step.overflowed for step in self._steps.values() if step.overflowed is not None]
        verdict = HostCopy(_verdict(values, overflows, runner.model.parameters()))
        self._settle(runner)
        self._waiting = _Iteration(runner.iter + 1, self._losses, self._steps, list(self._paths), verdict)
        self._losses, self._steps = [], {key: _Step() for key in self._steps}
        if not accumulates:
            self._paths.clear()
        if not self._late:
            self._settle(runner)

    def _settle(self, runner: Runner) -> None:
        """Read the verdict that is on its way, if there is one."""
        if self._waiting is None:
            return
        iteration, self._waiting = self._waiting, None
        found, overflowed = iteration.verdict.read()
        if any(step.scaled for step in iteration.steps.values()):
            left_out = overflowed or any(step.left_out for step in iteration.steps.values())
            self._overflows = self._overflows + 1 if left_out else 0
        if found or self._overflows >= MAX_OVERFLOWS:
            self._report(runner, iteration)

    def _report(self, runner: Runner, iteration: _Iteration) -> None:
        losses = {name: float(value) for name, value in iteration.losses if not bool(torch.isfinite(value))}
        steps = [(step.names, step.norms) for step in iteration.steps.values() if step.norms is not None]
        norms = [pair for names, norm in steps for pair in zip(names, norm.isfinite().tolist(), strict=True)]
        gradients = [name for name, finite in norms if not finite]
        floating = {name: x for name, x in bare_model(runner.model).named_buffers() if x.is_floating_point()}
        buffers = [name for name, buffer in floating.items() if not torch.isfinite(buffer).all()]
        # PyTorch 2.1 compiles a train step without the hooks of the optimizer in it.
        unseen = any(not step.called and not step.scaled for step in iteration.steps.values())
        everywhere: list[Any] = all_gather_object((losses, gradients, iteration.paths, bool(buffers or unseen)))
        losses = {name: value for entry in everywhere for name, value in entry[0].items()}
        gradients = list(dict.fromkeys(name for entry in everywhere for name in entry[1]))
        paths = [path for entry in [entry for entry in everywhere if entry[0]] or everywhere for path in entry[2]]
        parts = []
        if losses:
            parts.append('losses that are not finite: ' + ', '.join(f'{k} = {v}' for k, v in losses.items()))
        if gradients:
            parts.append(f'gradients that are not finite: {len(gradients)} of {len(norms)} ({_some(gradients)})')
        overflowed = self._overflows >= MAX_OVERFLOWS
        if overflowed and not parts:
            parts = [f'gradients that overflowed in {self._overflows} steps one after another, whatever the loss scale']
        message = f'iteration {iteration.number} has {" and ".join(parts)}, with the images {_some(paths) or "unnamed"}'
        self._skipped += 1
        if self.max_skips and not overflowed and not any(entry[3] for entry in everywhere):
            runner.message_hub.update_info(_INFO, self._skipped)
            if self._skipped <= self.max_skips:
                runner.logger.warning(f'{message}: update left out ({self._skipped} of at most {self.max_skips})')
                return
            message += f'; these are {self._skipped} such updates where max_skips is {self.max_skips}'
        elif buffers:
            message += f'; buffers of the model are no longer finite either ({_some(buffers)})'
        elif self.max_skips and unseen:
            message += '; the update was made already, a step compiled by this PyTorch cannot be watched'
        remedy = 'look at these samples (tools/check_dataset.py), lower the learning rate or clip gradients'
        with same_on_every_process():
            raise NonFiniteError(f'{message}: {remedy}; the last checkpoint was written before this')


def _some(names: Sequence[str]) -> str:
    return ', '.join(names[:_SHOWN]) + (f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else '')


def _scales(wrapper: Any) -> bool:
    """Whether an optimizer's loss is scaled, of which bfloat16 has no need."""
    scaler = getattr(wrapper, 'loss_scaler', None)
    return scaler is not None and bool(scaler.is_enabled())


def _gradient_norms(gradients: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """The 2-norm of each gradient in float32, the one quantity that PyTorch finds for all of them in one go."""
    if not gradients:
        return None
    dense = [gradient._values() if gradient.is_sparse else gradient for gradient in gradients]
    if all(gradient.dtype == torch.float32 for gradient in dense):
        norms = list(torch._foreach_norm(dense))
    else:  # the norm of a half-precision gradient overflows long before its values do
        norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in dense]
    return torch.stack([norm.to(norms[0].device) for norm in norms])


def _verdict(
    values: Sequence[torch.Tensor], overflows: Sequence[torch.Tensor], parameters: Iterable[torch.Tensor]
) -> torch.Tensor:
    """Two numbers on the device: whether some value is not finite, and whether some overflow was found, anywhere."""
    device = next((parameter.device for parameter in parameters), torch.device('cpu'))
    flags = torch.zeros(2, device=device)
    if values:
        flags[0] = torch.stack([~torch.isfinite(part).all().to(device) for part in values]).any()
    if overflows:
        flags[1] = torch.stack([found.reshape(()).to(device) for found in overflows]).amax()
    all_reduce(flags, op='max')
    return flags


def _any_nonfinite(norms: torch.Tensor | None, parameters: Iterable[torch.Tensor]) -> bool:
    """Whether some norm is not finite on any process, for which the host waits."""
    found, _ = _verdict([] if norms is None else [norms], [], parameters).tolist()
    return bool(found)
