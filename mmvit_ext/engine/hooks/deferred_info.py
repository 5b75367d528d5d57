"""What a GPU would wait for in each iteration of a training, done when it is due, or without waiting."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from mmengine.hooks import LoggerHook, RuntimeInfoHook
from mmengine.model import BaseDataPreprocessor, ImgDataPreprocessor
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import nn

from mmvit_ext.registry import HOOKS

from .reports import bare_model

__all__ = ['DeferredInfoHook', 'HostCopy', 'wrappers_by_name']

INTERVAL = 50  # iterations after which values are read where no logger says one


class HostCopy:
    """A few numbers on their way from the device to the host, which waits for them only when they are read."""

    def __init__(self, values: torch.Tensor) -> None:
        self._values = values.to('cpu', non_blocking=values.is_cuda)  # elsewhere nothing tells when it is there
        self._event = torch.cuda.Event() if values.is_cuda else None
        if self._event is not None:
            self._event.record()

    def read(self) -> list[Any]:
        """The numbers; the host waits for what the device was given before them, not for what came later."""
        if self._event is not None:
            self._event.synchronize()
        numbers: list[Any] = self._values.tolist()
        return numbers


def wrappers_by_name(optim_wrapper: Any) -> dict[str, Any]:
    """The optimizers of a run by their names, a single one without a name."""
    return dict(optim_wrapper.items()) if isinstance(optim_wrapper, OptimWrapperDict) else {'': optim_wrapper}


@HOOKS.register_module()
class DeferredInfoHook(RuntimeInfoHook):
    """mmengine's ``RuntimeInfoHook``, without the host's waiting for the device in each iteration.

    Take it as ``default_hooks.runtime_info``. Losses, accuracies and the norm of clipped gradients reach the message
    hub when the logger is due, at a checkpoint and at the end, with the values of all iterations between them; nothing
    else of a log changes. Images and labels are copied to a GPU while it works, and their channels are turned there
    without an index that the host has to copy. In validations and tests, whose images are of many sizes, cuDNN does
    not search for the fastest algorithm of each size.

    Note:
        A hook of your own that reads ``train/...`` from the message hub sees the values up to the last line of the
        log. ``outputs`` of ``after_train_iter`` has those of each iteration, on the device.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[str, Any]] = []
        self._loggers: list[LoggerHook] = []
        self._searches = False

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        self._pending = []
        self._loggers = [hook for hook in runner.hooks if isinstance(hook, LoggerHook)]
        if not runner.cfg.get('compile'):  # a compiled training step asks for the norm itself
            for wrapper in wrappers_by_name(runner.optim_wrapper).values():
                self._defer_norm(wrapper)
        prepare_copies(getattr(bare_model(runner.model), 'data_preprocessor', None))

    def _defer_norm(self, wrapper: Any) -> None:
        """Let the norm be noted where mmengine would ask for it; it logs nothing of a function that returns None."""
        function = getattr(wrapper, 'clip_func', None)
        if getattr(wrapper, 'clip_grad_kwargs', None) and not isinstance(function, partial):
            wrapper.clip_func = partial(self._clip, function, f'train/{wrapper.grad_name}')

    def _clip(self, function: Any, name: str, parameters: Sequence[nn.Parameter], **options: Any) -> None:
        norm = function(parameters, **options)
        if norm is not None:
            self._pending.append((name, norm.detach()))

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Note the values of an iteration, and tell the message hub where a logger is about to ask it."""
        for name, value in (outputs or {}).items():
            self._pending.append((f'train/{name}', value.detach() if torch.is_tensor(value) else value))
        intervals = [hook.interval for hook in self._loggers] or [INTERVAL]
        due = any(self.every_n_inner_iters(batch_idx, interval) for interval in intervals)
        if due or (self._loggers and self.end_of_epoch(runner.train_dataloader, batch_idx)):
            self._tell(runner)

    def before_collective_save(self, runner: Runner) -> None:
        """Let a checkpoint have all values so far; :class:`mmvit_ext.engine.AtomicCheckpointHook` calls it."""
        self._tell(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """The same for a checkpoint of anybody else, which has the message hub's state already."""
        if self._pending:
            self._tell(runner)
            checkpoint['message_hub'] = runner.message_hub.state_dict()

    def after_train(self, runner: Runner) -> None:
        self._tell(runner)
        super().after_train(runner)

    def _tell(self, runner: Runner) -> None:
        names = [name for name, _ in self._pending]
        for name, number in zip(names, _numbers([value for _, value in self._pending]), strict=True):
            runner.message_hub.update_scalar(name, number)
        self._pending.clear()

    def before_val(self, runner: Runner) -> None:
        super().before_val(runner)
        self._searches, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False

    def after_val(self, runner: Runner) -> None:
        super().after_val(runner)
        torch.backends.cudnn.benchmark = self._searches

    def before_test(self, runner: Runner) -> None:
        super().before_test(runner)
        torch.backends.cudnn.benchmark = False


def _numbers(values: Sequence[Any]) -> list[Any]:
    """Values with the tensors of one number among them as numbers, copied to the host in one go for each kind."""
    kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for index, value in enumerate(values):
        if torch.is_tensor(value):
            kinds.setdefault((value.device, value.dtype), []).append(index)
    numbers = list(values)
    for indices in kinds.values():
        stacked = torch.stack([values[index].reshape(()) for index in indices])
        for index, number in zip(indices, stacked.tolist(), strict=True):
            numbers[index] = number
    return numbers


def prepare_copies(preprocessor: Any) -> None:
    """Let a data preprocessor copy while a GPU works, and turn channels without an index that the host copies first."""
    if not isinstance(preprocessor, BaseDataPreprocessor):
        return
    preprocessor._non_blocking = preprocessor.device.type == 'cuda'  # no argument of mmseg's class
    if isinstance(preprocessor, ImgDataPreprocessor) and preprocessor._channel_conversion:
        preprocessor._channel_conversion = False
        preprocessor.register_forward_pre_hook(_turn_channels)


def _turn_channels(preprocessor: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """BGR to RGB of the images of a batch, on the device."""
    data, *rest = args
    if not isinstance(data, Mapping) or 'inputs' not in data:
        return None
    data = preprocessor.cast_data(data)
    images = data['inputs']
    turn = lambda image: image.flip(-3) if image.shape[-3] == 3 else image  # noqa: E731
    turned = turn(images) if torch.is_tensor(images) else [turn(image) for image in images]
    return ({**data, 'inputs': turned}, *rest)
