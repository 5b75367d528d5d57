"""What of a checkpoint really reaches the model.

mmengine loads with ``strict=False``: a checkpoint of which nothing fits is one log line, and training starts from
random weights. :class:`LoadObserver` watches the loading itself through PyTorch's hooks, so it sees what every module
was given after all renaming and resizing, whoever called: ``init_cfg``, ``init_weights``, ``load_from`` or ``resume``.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from mmvit_ext.errors.user_error import UserError

__all__ = ['LoadObserver', 'WeightsReport', 'check_report', 'load_weights', 'style_hint', 'weights_report']

MIN_FRACTION = 0.5
_SHOWN = 3
ALLOW_OPTION = '--allow-partial-weights'
Shape = tuple[int, ...]

_STYLES: tuple[tuple[str, str, str | None], ...] = (
    (r'(visual|text|vision_model)\.(transformer\.resblocks|encoder\.layers)\.\d+\.', 'CLIP', None),
    (
        r'(\w+\.)*encoder\.layers?\.\d+\.(attention\.|self_attn\.|self_attention\.)',
        'Hugging Face transformers',
        'TimmViT',
    ),
    (r'encoder\.layers\.encoder_layer_\d+\.', "torchvision's ViT", None),
    (r'(backbone\.)?blocks\.\d+\.(gamma_[12]|attn\.[qv]_bias|attn\.relative_position_bias_table)', 'BEiT', 'TimmViT'),
    (r'(backbone\.)?blocks\.(\d+\.)?\d+\.ls[12]\.gamma', 'a ViT with layer scale (DINOv2, DeiT III)', 'TimmViT'),
    (r'(backbone\.)?layers\.\d+\.blocks\.\d+\.attn\.', 'Swin', None),
    (r'(backbone\.)?layer[1-4]\.\d+\.conv1\.', 'a ResNet', None),
    (r'(backbone\.)?layers\.\d+\.attn\.qkv\.', "mmpretrain's ViT", None),
    (r'(backbone\.)?(inner_pos|pixel_pos)', 'TNT', 'tnt'),
    (r'levels\.\d+\.transformer_encoder\.\d+\.', "timm's NesT", 'nest'),
    (r'(backbone\.)?patch_embed1\.proj\.', 'the authors of P2T', 'p2t'),
    (r'(decode_head\.)?(atm\.)?decoder_\d+\.layers\.', 'the authors of SegViT', 'segvit'),
    (r'dist_token', "timm's distilled DeiT, which SPFormer starts from", 'deit'),
    (r'blocks\.\d+\.attn\.qkv\.', "timm's ViT (AugReg, DeiT, DINO, MAE)", 'vit'),
)
"""How a parameter's name begins, whose it is, and the method of ``mmvit convert``, or the type, that takes the file."""


@dataclass(frozen=True)
class WeightsReport:
    """How a checkpoint fits a model, by parameter name (buffers included)."""

    matched: tuple[str, ...]  # names that the checkpoint fills
    missing: tuple[str, ...]  # names of the model that the checkpoint does not have
    unexpected: tuple[str, ...]  # names of the checkpoint that the model does not have
    mismatched: tuple[tuple[str, Shape, Shape], ...]  # name, shape in the checkpoint, other shape in the model
    adapted: tuple[str, ...] = ()  # of ``matched``: what the model changed itself, such as a position embedding's grid
    failed: tuple[str, ...] = ()  # names whose values of the checkpoint are not in the model, with the reason

    @property
    def total(self) -> int:
        """Number of parameters and buffers that the model has."""
        return len(self.matched) + len(self.missing) + len(self.mismatched) + len(self.failed)

    @property
    def fraction(self) -> float:
        """Share of the model that the checkpoint fills, 0 to 1; 1 for a model without parameters."""
        return len(self.matched) / self.total if self.total else 1.0

    @property
    def exact(self) -> bool:
        """Whether everything of the model is filled and nothing of the checkpoint is left."""
        return not (self.missing or self.unexpected or self.mismatched or self.failed)

    def __str__(self) -> str:
        text = f'{len(self.matched)} of {self.total} parameters matched'
        if self.adapted:
            text += f' ({len(self.adapted)} of them adapted: {_names(self.adapted)})'
        shapes = [f'{name} {_shape(theirs)} for {_shape(ours)}' for name, theirs, ours in self.mismatched]
        parts = {'missing': self.missing, 'unexpected': self.unexpected, 'of another shape': shapes}
        for title, names in {**parts, **({'not arrived': self.failed} if self.failed else {})}.items():
            text += f', {len(names)} {title}' + (f' ({_names(names)})' if names else '')
        return text


def _names(names: Sequence[str]) -> str:
    return ', '.join(names[:_SHOWN]) + (', ...' if len(names) > _SHOWN else '')


def _shape(shape: Shape) -> str:
    return 'x'.join(map(str, shape)) or 'scalar'


def weights_report(model_state: Mapping[str, Any], checkpoint_state: Mapping[str, Any]) -> WeightsReport:
    """Compare a checkpoint's tensors (or shapes) with a model's, without the counters of batch norms, by name."""
    ours, theirs = _shapes(model_state), _shapes(checkpoint_state)
    common = [name for name in ours if name in theirs]
    same = [name for name in common if ours[name] == theirs[name]]
    kinds = {name: (_kind(checkpoint_state[name]), _kind(model_state[name])) for name in same}
    return WeightsReport(
        matched=tuple(name for name in same if None in kinds[name] or kinds[name][0] == kinds[name][1]),
        missing=tuple(name for name in ours if name not in theirs),
        unexpected=tuple(name for name in theirs if name not in ours),
        mismatched=tuple((name, theirs[name], ours[name]) for name in common if ours[name] != theirs[name]),
        failed=tuple(
            f'{name}: {theirs} numbers for {ours}'
            for name, (theirs, ours) in kinds.items()
            if theirs and ours and theirs != ours
        ),
    )


def _shapes(state: Mapping[str, Any]) -> dict[str, Shape]:
    names = (name for name in state if not name.endswith('num_batches_tracked'))
    shapes = {name: getattr(state[name], 'shape', state[name]) for name in names}
    return {name: tuple(shape) for name, shape in shapes.items() if isinstance(shape, tuple | list)}


def _kind(value: Any) -> str | None:
    """Numbers of another kind change their meaning when they are copied; ``None`` for a shape."""
    if not torch.is_tensor(value):
        return None
    if value.is_quantized:
        return 'quantised'
    return 'floating' if value.is_floating_point() else 'complex' if value.is_complex() else 'whole'


def _arrived(stored: torch.Tensor, loaded: torch.Tensor) -> bool:
    if loaded.is_meta or stored.is_meta or stored.layout != loaded.layout:
        return False
    values = stored.detach().to(loaded.device, loaded.dtype)
    if stored.is_floating_point() and not torch.equal(values.isfinite(), stored.to(values.device).isfinite()):
        return False  # too large for the model's numbers
    return torch.equal(loaded, values) or torch.allclose(loaded, values, rtol=0, atol=0, equal_nan=True)


def check_report(report: WeightsReport, source: str, target: str, *, strict: bool, allow_partial: bool = False) -> None:
    """Refuse a checkpoint that does not belong to the model: with ``strict`` all has to match, otherwise half of it."""
    if allow_partial or report.exact or (not strict and not report.failed and report.fraction >= MIN_FRACTION):
        return
    need = 'all of them' if strict else 'every value of the file' if report.failed else 'at least half'
    hint = style_hint(report.unexpected) or '; use the checkpoint that belongs to this config'
    remedy = f'expected {need}{hint}, or pass {ALLOW_OPTION} (allow_partial=True in Python) where the command takes it'
    raise UserError(f'{source} does not fit {target}: {report}; {remedy}')


def style_hint(names: Iterable[str]) -> str:
    """Half a sentence on foreign names and the way from there; empty where nobody is recognised by them."""
    names = list(names)
    for begin, whose, method in _STYLES:
        if any(re.match(begin, name) for name in names):
            remedy = (
                f'convert the file with `mmvit convert {method} FILE OUT.pth`' if method else 'no converter takes them'
            )
            if method == 'TimmViT':
                remedy = 'no converter takes them, but mmvit_ext.TimmViT(checkpoint=FILE) may'
            return f'; the names are those of {whose}: {remedy}'
    return ''


class LoadObserver:
    """Reports every ``load_state_dict`` on a model or a part of it, from the outside.

    A first pre-hook of the module on which the loading begins notes what the file has, a last one of every module its
    entries as they are copied, after its conversions; the first module's post-hook compares them with the model's.
    ``on_load`` gets the dotted name of the loaded part, the part and the report; what it raises ends the loading.
    """

    def __init__(self, model: nn.Module, on_load: Callable[[str, nn.Module, WeightsReport], None]) -> None:
        self._on_load = on_load
        # Of each loading under way: the module on which it began, the file's tensors, and those that were copied.
        self._stack: list[tuple[nn.Module, dict[str, Any], dict[str, Any]]] = []
        self._handles: list[Any] = []
        for name, module in model.named_modules():
            first = module._register_load_state_dict_pre_hook(partial(self._begin, module))
            module._load_state_dict_pre_hooks.move_to_end(first.id, last=False)  # type: ignore[attr-defined]
            last = module._register_load_state_dict_pre_hook(partial(self._before, module))
            self._handles += [first, last, module.register_load_state_dict_post_hook(partial(self._after, name))]

    def close(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._stack.clear()

    def _begin(self, module: nn.Module, state_dict: Mapping[str, Any], prefix: str, *_: Any) -> None:
        if not prefix:
            self._stack.append((module, {name: v for name, v in state_dict.items() if torch.is_tensor(v)}, {}))

    def _before(self, module: nn.Module, state_dict: Mapping[str, Any], prefix: str, *_: Any) -> None:
        if self._stack:
            names = [prefix + name for name in (*module._parameters, *module._buffers)]
            own = {name: state_dict[name] for name in names if torch.is_tensor(state_dict.get(name))}
            self._stack[-1][2].update(own)

    def _after(self, name: str, module: nn.Module, incompatible: Any) -> None:
        if not self._stack or self._stack[-1][0] is not module:
            return
        _, raw, effective = self._stack.pop()
        ours = {key: value for key, value in module.state_dict().items() if torch.is_tensor(value)}
        # A name that a part of the model renamed while it loaded is not left over, so the loader's own list counts.
        left = {key: raw[key] for key in incompatible.unexpected_keys if key in raw}
        report = weights_report(ours, {**left, **effective})
        adapted = tuple(key for key in report.matched if key in raw and raw[key] is not effective[key])
        lost = [key for key in report.matched if not _arrived(effective[key], ours[key])]
        matched = tuple(key for key in report.matched if key not in lost)
        failed = (*report.failed, *(f'{key}: the model has other values' for key in lost))
        self._on_load(name, module, replace(report, matched=matched, adapted=adapted, failed=failed))


def load_weights(model: nn.Module, state_dict: Mapping[str, Any]) -> WeightsReport:
    """Load what fits of a checkpoint's tensors into a model, and report what did."""
    reports: list[WeightsReport] = []
    observer = LoadObserver(model, lambda name, module, report: reports.append(report))
    try:
        # mmengine's loader skips what does not fit, where PyTorch's raises for a shape even with strict=False.
        load_state_dict(model, state_dict, strict=False, logger='silent')
    finally:
        observer.close()
    return reports[-1]
