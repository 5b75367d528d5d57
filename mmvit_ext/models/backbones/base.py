"""What all backbones share: the table of architectures, freezing, outputs, intermediate maps and depths of parameters.

Shapes: B batch, C width, H and W input size in pixels, (h, w) grid of a map.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmvit_ext.models.layers.attention import check_choices

__all__ = ['Backbone', 'MapInfo', 'Tokens', 'arch_table', 'channels_last', 'checkpointed', 'normalised_by_mean']
__all__ += ['token_grid']


def token_grid(img_size: int | Sequence[int], stride: int, *, cut: bool = False) -> tuple[int, int]:
    """Grid ``(h, w)`` of tokens on an image; ``cut`` leaves out pixels that fill no whole token, otherwise padded."""
    size = (img_size,) if isinstance(img_size, int) else tuple(img_size)
    if len(size) not in (1, 2) or min(size) < stride:
        raise ValueError(f'img_size must be an edge or (H, W) of at least {stride} pixels, got {img_size!r}')
    h, w = (int(edge) // stride if cut else -(-int(edge) // stride) for edge in (size[0], size[-1]))
    return h, w


def arch_table(settings: Sequence[str], **rows: Sequence[Any]) -> MappingProxyType[str, Mapping[str, Any]]:
    """A paper's table of architectures: by name, the values of ``settings`` in their order."""
    return MappingProxyType({name: dict(zip(settings, row, strict=True)) for name, row in rows.items()})


def arch_settings(
    arch: str | Mapping[str, Any],
    archs: Mapping[str, Mapping[str, Any]],
    defaults: Mapping[str, Any] = MappingProxyType({}),
    **replaced: Any,
) -> dict[str, Any]:
    """Settings of an architecture, by name or from a dict with or without ``defaults``, and those of ``replaced``."""
    if not isinstance(arch, Mapping):
        if arch not in archs:
            raise ValueError(f'arch must be one of {list(archs)} or a dict, got {arch!r}')
        arch = archs[arch]
    table = next(iter(archs.values()))
    missing, unknown = set(table) - set(defaults) - set(arch), set(arch) - set(table) - set(defaults)
    if missing or unknown:
        raise ValueError(f'arch: missing {sorted(missing)}, unknown {sorted(unknown)}')
    staged = [name for name, values in table.items() if isinstance(values, Sequence)]
    counts = {len(arch[name]) if isinstance(arch[name], Sequence) else 0 for name in staged}
    if len(counts) > 1 or 0 in counts:
        raise ValueError(f'arch: {", ".join(staged)} must have one value for each stage, got {dict(arch)}')
    return {**defaults, **arch, **{name: value for name, value in replaced.items() if value is not None}}


def resolve_indices(
    indices: int | Sequence[int], count: int, what: str, *, name: str = 'out_indices', may_be_empty: bool = False
) -> tuple[int, ...]:
    """One or several distinct ``indices`` into ``count`` things, counted from 0, in the order that was given."""
    given = (indices,) if isinstance(indices, int) else tuple(indices)
    resolved = tuple(i + count if i < 0 else i for i in given)
    if not (resolved or may_be_empty) or not set(resolved) <= set(range(count)) or len(set(resolved)) < len(resolved):
        raise ValueError(f'{name} must name distinct {what} of {count}, got {indices!r}')
    return resolved


def checkpointed(module: nn.Module, *arguments: Any, with_cp: bool, **keywords: Any) -> Any:
    """Call a module, in training with activation checkpointing if that is wanted."""
    if with_cp and module.training:
        return checkpoint(module, *arguments, use_reentrant=False, **keywords)
    return module(*arguments, **keywords)


def channels_last(x: Tensor) -> Tensor:
    """The same ``(B, C, H, W)`` with the channels of a pixel next to each other in memory."""
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # vmap knows no memory formats


def normalised_by_mean(norm: Any, x: Tensor) -> Tensor:
    """Tokens ``(B, N, C)`` whose mean is the layer norm of the tokens' mean: each with the deviation of that mean."""
    offset = norm(torch.zeros_like(x[:, :1]))  # the norm's bias, since a constant has no deviation
    own, common = (part.var(-1, unbiased=False, keepdim=True) for part in (x, x.mean(1, keepdim=True)))
    return (norm(x) - offset) * ((own + norm.eps).sqrt() / (common + norm.eps).sqrt()) + offset


def image_channels(model: nn.Module) -> int:
    """Channels of the images that a model takes: those of its backbone's first convolution, three where it has none."""
    modules = getattr(model, 'backbone', model).modules()
    return next((module.in_channels for module in modules if isinstance(module, nn.Conv2d)), 3)


class MapInfo(NamedTuple):
    """A map inside a backbone: its width and its stride in pixels."""

    channels: int
    stride: int


class Tokens(NamedTuple):
    """Tokens ``(B, P + h*w, C)`` of a grid ``(h, w)`` behind P tokens without a place in the image."""

    x: Tensor
    size: tuple[int, int]
    num_prefix_tokens: int = 0

    def to_map(self) -> Tensor:
        """Tokens of the grid as ``(B, C, h, w)``, a view."""
        return self.x[:, self.num_prefix_tokens :].transpose(1, 2).unflatten(2, self.size)


class Backbone(BaseModule):
    """Base of the backbones.

    A subclass builds its modules, calls :meth:`declare` and then :meth:`freeze` at the end of its ``__init__``, and
    implements :meth:`collect`, :meth:`stage_parts` and :meth:`init_parameters`. Each map is named by the path of the
    module that gives it; a forward hook there yields that module's own output, such as tokens with the class token.
    """

    ARCHS: Mapping[str, Mapping[str, Any]]  # as the paper's table has them
    UNIT = 'block'  # what ``out_indices`` count
    OUT_TYPES: tuple[str, ...] = ('featmap', 'avg_featmap')

    def __init__(
        self,
        *,
        out_type: str = 'featmap',
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        check_choices(out_type=(out_type, self.OUT_TYPES))
        self.out_type, self.frozen_stages, self.with_cp = out_type, frozen_stages, with_cp
        self._register_load_state_dict_pre_hook(self._fit_state_dict)

    def arch_settings(
        self, arch: str | Mapping[str, Any], *defaults: Mapping[str, Any], **replaced: Any
    ) -> dict[str, Any]:
        """Settings of one of ``ARCHS``; see :func:`arch_settings`."""
        settings = arch_settings(arch, self.ARCHS, *defaults, **replaced)
        depths = settings.get('depths', (1,))
        if not isinstance(depths, Sequence) or min(depths, default=0) < 1:
            raise ValueError(f'depths must name at least one block for each stage, got {depths}')
        return settings

    def declare(
        self,
        blocks: Mapping[str, tuple[int, int]],
        out_indices: int | Sequence[int],
        *,
        stages: Sequence[str] | None = None,
        num_frozen_stages: int | None = None,
        others: Mapping[str, tuple[int, int]] = MappingProxyType({}),
        owners: Mapping[str, str] = MappingProxyType({}),
        last: Collection[str] = ('norm',),
    ) -> None:
        """State width and stride of each block's map, from the input on, and of ``others``.

        ``owners`` are the blocks that parts outside belong to, ``last`` the names of the parts behind the last block.
        """
        self.block_names = tuple(blocks)
        #: What ``out_indices`` count: the blocks, or the last block of each stage.
        self.stage_names = self.block_names if stages is None else tuple(stages)
        self.map_info = {name: MapInfo(*info) for name, info in {**blocks, **others}.items()}
        self.out_indices = resolve_indices(out_indices, len(self.stage_names), f'{self.UNIT}s')
        self.out_names = tuple(self.stage_names[index] for index in self.out_indices)
        highest = len(self.stage_names) if num_frozen_stages is None else num_frozen_stages
        if not -1 <= self.frozen_stages <= highest:
            raise ValueError(f'frozen_stages must be -1 to {highest}, got {self.frozen_stages}')
        self._owners, self._last = dict(owners), tuple(last)

    def stage_parts(self, stage: int) -> list[nn.Module | nn.Parameter]:
        """What ``frozen_stages`` freezes: at 0 the embedding of the image, at k the k-th stage."""
        raise NotImplementedError

    def unused_parts(self) -> list[nn.Module | nn.Parameter]:
        """Parts that no output depends on: distributed training refuses parameters that get no gradient."""
        unused = range(max(self.out_indices) + 2, len(self.stage_names) + 1)
        return [part for stage in unused for part in self.stage_parts(stage)]

    def _frozen_parts(self) -> list[nn.Module | nn.Parameter]:
        return [part for stage in range(self.frozen_stages + 1) for part in self.stage_parts(stage)]

    def freeze(self) -> None:
        """Take the gradient from frozen and unused parts."""
        for part in (*self._frozen_parts(), *self.unused_parts()):
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        for part in self._frozen_parts():
            if isinstance(part, nn.Module):
                part.eval()
        return self

    def init_parameters(self) -> None:
        """Give all parameters their first values."""
        raise NotImplementedError

    def init_weights(self) -> None:
        """Load the checkpoint of ``init_cfg``, or give all parameters their first values."""
        if self.init_cfg:
            super().init_weights()
            return
        self.init_parameters()
        self._is_init = True

    def _fit_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
        """Before any load: leave out a final norm that this network does not have."""
        for name in self._last:
            if not any(path == name for path, _ in self.named_modules()):
                for part in ('weight', 'bias'):
                    state_dict.pop(f'{prefix}{name}.{part}', None)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter and the number of layers, for layer-wise learning rates (mmpretrain's interface).

        Layer 0 is the embedding, k the k-th block and what leads to it, the last one all that follows, heads included.
        """
        num_layers = len(self.block_names) + 2
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        param_name = param_name[len(prefix) :]
        if f'{param_name}.'.startswith(tuple(f'{name}.' for name in self._last)):
            return num_layers - 1, num_layers
        parts = param_name.split('.')
        for length in range(len(parts), 0, -1):
            path = '.'.join(parts[:length])
            owner = self._owners.get(path, path)
            if owner in self.block_names:
                return self.block_names.index(owner) + 1, num_layers
            first = next((i for i, name in enumerate(self.block_names) if name.startswith(f'{path}.')), None)
            if first is not None:
                return (first + 1 if first else 0), num_layers
        return 0, num_layers

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Width of each output."""
        return tuple(self.map_info[name].channels for name in self.out_names)

    @property
    def out_strides(self) -> tuple[int, ...]:
        """Stride of each output map in pixels."""
        return tuple(self.map_info[name].stride for name in self.out_names)

    def num_blocks_run(self, names: Collection[str]) -> int:
        """Number of blocks, from the input on, that the named maps need."""
        return min(max(self.get_layer_depth(name)[0] for name in names), len(self.block_names))

    def collect(self, img: Tensor, names: Collection[str]) -> dict[str, Any]:
        """Run the network on ``(B, in_channels, H, W)`` up to the last of the named maps, and give each of these."""
        raise NotImplementedError

    def tokens_before(self, img: Tensor, block: int) -> Tokens:
        """Run ``block`` blocks and give the tokens that the next one takes, without the last norm.

        Together with :meth:`run_block` and :meth:`normalise` this lets a model join tokens of its own to a plain
        network's: behind the class token, where they count as tokens without a place in the image.

        Raises:
            ValueError: The network's blocks take no further tokens, or there are fewer of them.
        """
        raise ValueError(f'{type(self).__name__} takes no further tokens: expected a ViT or a TimmViT')

    def run_block(self, block: int, tokens: Tokens, mask: Tensor | None = None) -> Tokens:
        """Run one block; ``mask`` ``(B, 1, N, N)`` says which tokens attend to which."""
        raise NotImplementedError

    def normalise(self, tokens: Tokens) -> Tokens:
        """Apply the network's last norm."""
        raise NotImplementedError

    def run_stages(self, stages: nn.ModuleList, x: Tensor, names: Collection[str]) -> dict[str, Tensor]:
        """The maps of all blocks in the stages that the named maps need; a stage gives a list of its blocks' maps."""
        found: dict[str, Tensor] = {}
        last = self.block_names[self.num_blocks_run(names) - 1]
        for stage in stages[: int(last.split('.')[1]) + 1]:
            maps = stage(x)
            found |= zip(self.block_names[len(found) :], maps, strict=False)
            x = maps[-1]
        return found

    def to_map(self, found: Tensor | Tokens) -> Tensor:
        """What :meth:`collect` found, as a map ``(B, C, h, w)``."""
        return found.to_map() if isinstance(found, Tokens) else found

    def to_averaged_map(self, found: Tensor | Tokens) -> Tensor:
        """What :meth:`collect` found, as the map whose mean over its places ``out_type='avg_featmap'`` returns."""
        return self.to_map(found)

    def averaged_maps(self, img: Tensor) -> tuple[Tensor, ...]:
        """The maps ``(B, C, h, w)`` whose means over their places ``out_type='avg_featmap'`` returns."""
        found = self.collect(img, self.out_names)
        return tuple(self.to_averaged_map(found[name]) for name in self.out_names)

    def to_output(self, found: Tensor | Tokens) -> Any:
        """What :meth:`collect` found, as :meth:`forward` returns it."""
        if self.out_type == 'cls_token':
            return found.x[:, 0]  # type: ignore[union-attr]
        if self.out_type == 'avg_featmap':
            return self.to_map(found).mean((2, 3))
        # mmcv's RoIAlign reads the memory of a map as if it were contiguous.
        return self.to_map(found).contiguous()

    def forward(self, img: Tensor) -> tuple[Any, ...]:
        """Outputs in the order of ``out_indices``; see the class."""
        found = self.collect(img, self.out_names)
        return tuple(self.to_output(found[name]) for name in self.out_names)

    def forward_intermediates(
        self, img: Tensor, indices: int | str | Sequence[int | str] | None = None
    ) -> dict[str, Tensor]:
        """The maps ``(B, C, h, w)`` of blocks by name; the last one is normalised if the network does so.

        ``indices`` are numbers of blocks, negative ones from the end, or names of maps; None for all blocks that run.
        A map lies on the way to the outputs where the next part of the network takes a map.
        """
        if indices is None:
            names = self.block_names[: self.num_blocks_run(self.out_names)]
        else:
            count = len(self.block_names)
            blocks: dict[Any, Any] = {place: self.block_names[place] for place in range(-count, count)}
            given = [indices] if isinstance(indices, int | str) else indices
            names = tuple(blocks.get(index, index) for index in given)
            if not names or not set(names) <= set(self.map_info):
                raise ValueError(f'indices must be numbers of blocks or of {list(self.map_info)}, got {indices!r}')
        found = self.collect(img, names)
        return {name: self.to_map(found[name]) for name in names}
