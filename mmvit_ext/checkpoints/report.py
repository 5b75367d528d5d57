"""What of a checkpoint really reaches the model.

mmengine loads with ``strict=False``: a checkpoint of which nothing fits is reported as one log line and training
starts from random weights. :class:`LoadObserver` watches the loading itself through PyTorch's load hooks, so it sees
what every module was given after all renaming and resizing, whoever called: ``init_cfg=dict(type='Pretrained')``, a
backbone whose ``init_weights`` reads the file by itself, ``load_from`` or ``resume``.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from mmvit_ext.errors.user_error import UserError

__all__ = ['LoadObserver', 'WeightsReport', 'check_report', 'load_weights', 'weights_report']

MIN_FRACTION = 0.5
_SHOWN = 3
ALLOW_OPTION = '--allow-partial-weights'

Shape = tuple[int, ...]


@dataclass(frozen=True)
class WeightsReport:
    """How a checkpoint fits a model, by parameter name (buffers included)."""

    matched: tuple[str, ...]  # names that the checkpoint fills
    missing: tuple[str, ...]  # names of the model that the checkpoint does not have
    unexpected: tuple[str, ...]  # names of the checkpoint that the model does not have
    mismatched: tuple[tuple[str, Shape, Shape], ...]  # name, shape in the checkpoint, other shape in the model
    resized: tuple[str, ...] = ()  # of ``matched``: what the model resized itself, such as a position embedding

    @property
    def total(self) -> int:
        """Number of parameters and buffers that the model has."""
        return len(self.matched) + len(self.missing) + len(self.mismatched)

    @property
    def fraction(self) -> float:
        """Share of the model that the checkpoint fills, 0 to 1; 1 for a model without parameters."""
        return len(self.matched) / self.total if self.total else 1.0

    @property
    def exact(self) -> bool:
        """Whether everything of the model is filled and nothing of the checkpoint is left."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        text = f'{len(self.matched)} of {self.total} parameters matched'
        if self.resized:
            text += f' ({len(self.resized)} of them resized: {_names(self.resized)})'
        for title, names in (('missing', self.missing), ('unexpected', self.unexpected)):
            text += f', {len(names)} {title}' + (f' ({_names(names)})' if names else '')
        shapes = [f'{name} {_shape(theirs)} for {_shape(ours)}' for name, theirs, ours in self.mismatched]
        return text + f', {len(shapes)} of another shape' + (f' ({_names(shapes)})' if shapes else '')


def _names(names: Sequence[str]) -> str:
    return ', '.join(names[:_SHOWN]) + (', ...' if len(names) > _SHOWN else '')


def _shape(shape: Shape) -> str:
    return 'x'.join(map(str, shape)) or 'scalar'


def weights_report(model_state: Mapping[str, Any], checkpoint_state: Mapping[str, Any]) -> WeightsReport:
    """Compare a checkpoint's tensors (or shapes) with a model's, name by name.

    Step counters of batch norms (``num_batches_tracked``), which old checkpoints lack, are left out.
    """
    ours, theirs = _shapes(model_state), _shapes(checkpoint_state)
    common = [name for name in ours if name in theirs]
    return WeightsReport(
        matched=tuple(name for name in common if ours[name] == theirs[name]),
        missing=tuple(name for name in ours if name not in theirs),
        unexpected=tuple(name for name in theirs if name not in ours),
        mismatched=tuple((name, theirs[name], ours[name]) for name in common if ours[name] != theirs[name]),
    )


def _shapes(state: Mapping[str, Any]) -> dict[str, Shape]:
    shapes = {name: getattr(value, 'shape', value) for name, value in state.items()}
    return {
        name: tuple(shape)
        for name, shape in shapes.items()
        if isinstance(shape, tuple | list) and not name.endswith('num_batches_tracked')
    }


def check_report(report: WeightsReport, source: str, target: str, *, strict: bool, allow_partial: bool = False) -> None:
    """Refuse a checkpoint that does not belong to the model.

    Args:
        report: What matched.
        source: The checkpoint, as the message names it.
        target: What it was loaded into, as the message names it.
        strict: Whether everything has to match; otherwise half of the model is enough.
        allow_partial: Accept the checkpoint however little matched.

    Raises:
        UserError: Too little matched; names counts, examples and the remedy.
    """
    if allow_partial or report.exact or (not strict and report.fraction >= MIN_FRACTION):
        return
    need = 'all of them' if strict else 'at least half'
    raise UserError(
        f'{source} does not fit {target}: {report}; expected {need}; use the checkpoint that belongs to this config, '
        f'or pass {ALLOW_OPTION} if this is intended'
    )


class LoadObserver:
    """Reports every ``load_state_dict`` on a model or a part of it, from the outside.

    Every module's pre-hook notes the shapes of its own entries as they are at the moment they are copied, after the
    module's own conversions; the post-hook of the module on which the loading began closes the account.

    Args:
        model: The model to watch, without a distributed wrapper.
        on_load: Called after each loading with the dotted name of the loaded part ('' for the whole model), the part
            and the report. What it raises ends the loading.
    """

    def __init__(self, model: nn.Module, on_load: Callable[[str, nn.Module, WeightsReport], None]) -> None:
        self._on_load = on_load
        # Of each loading under way: the module on which it began, the file's shapes, and those that were copied.
        self._stack: list[tuple[nn.Module, dict[str, Shape], dict[str, Shape]]] = []
        self._handles = []
        for name, module in model.named_modules():
            self._handles.append(module._register_load_state_dict_pre_hook(partial(self._before, module)))
            self._handles.append(module.register_load_state_dict_post_hook(partial(self._after, name)))

    def close(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._stack.clear()

    def _before(self, module: nn.Module, state_dict: Mapping[str, Any], prefix: str, *_: Any) -> None:
        shapes = {name: tuple(value.shape) for name, value in state_dict.items() if torch.is_tensor(value)}
        if not prefix:
            self._stack.append((module, shapes, {}))
        if not self._stack:
            return
        own = [*module._parameters, *module._buffers]
        self._stack[-1][2].update({prefix + name: shapes[prefix + name] for name in own if prefix + name in shapes})

    def _after(self, name: str, module: nn.Module, incompatible: Any) -> None:
        if not self._stack or self._stack[-1][0] is not module:
            return
        _, raw, effective = self._stack.pop()
        ours = {key: tuple(value.shape) for key, value in module.state_dict().items() if torch.is_tensor(value)}
        # A name that a part of the model renamed while it loaded is not left over, so the loader's own list counts.
        left = {key: raw[key] for key in incompatible.unexpected_keys if key in raw}
        report = weights_report(ours, {**left, **effective})
        resized = tuple(key for key in report.matched if raw.get(key, ours[key]) != ours[key])
        self._on_load(name, module, replace(report, resized=resized))


def load_weights(model: nn.Module, state_dict: Mapping[str, Any]) -> WeightsReport:
    """Load what fits of a checkpoint's tensors into a model, and report what did."""
    silent: Any = logging.Logger('mmvit_ext.silent')
    silent.addHandler(logging.NullHandler())
    reports: list[WeightsReport] = []
    observer = LoadObserver(model, lambda name, module, report: reports.append(report))
    try:
        # mmengine's loader skips what does not fit, where PyTorch's raises for a shape even with strict=False; its own
        # report goes to the log, which a prediction command does not have.
        load_state_dict(model, dict(state_dict), strict=False, logger=silent)
    finally:
        observer.close()
    return reports[-1]
