r"""Transformer in transformer: patches that listen to the words inside them.

Paper: Transformer in Transformer, Han et al., NeurIPS 2021, arXiv 2103.00112.

Choices where the paper leaves one, and those of the released weights: the convolution that embeds the words sees zeros
beyond the border of its patch; the words of a patch are normalised together before they are projected, and their
projection again. The weights that timm calls legacy, which are also mmpretrain's, differ in both. Squeeze and
excitation is that of the authors' code: the paper's appendix only multiplies, and does not add the gated output.

Shapes: B batch, H and W input size in pixels, (h, w) = ceil(H / patch), ceil(W / patch), n = h w patches, m words of
each, c width of the words, C width of the patches.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model.weight_init import trunc_normal_
from torch import Tensor, nn

from mmvit_ext.models.backbones.base import Backbone, Tokens, arch_table, checkpointed, resolve_indices, token_grid
from mmvit_ext.models.kernels import are_plain, may_fuse
from mmvit_ext.models.layers.attention import SelfAttention, check_choices, check_counts, check_heads, check_rates
from mmvit_ext.models.layers.drop import DropPath
from mmvit_ext.models.layers.mlp import MLP, init_linears
from mmvit_ext.models.layers.open_sizes import is_traced, pad_to_multiple
from mmvit_ext.models.layers.position_embedding import INTERPOLATIONS, resize_position_embedding, track_position
from mmvit_ext.registry import MODELS

__all__ = ['TNT']

WORD_KERNEL = 7
SE_REDUCTION = 4
WORD_PADDINGS = ('patch', 'image')
WORD_NORMS = ('sentence', 'word')


class WordEmbedding(nn.Module):
    """Image to the words of its patches: a convolution with zeros around each ``'patch'`` or around the ``'image'``."""

    def __init__(self, in_channels: int, embed_dims: int, *, stride: int, patch_size: int, padding: str) -> None:
        super().__init__()
        self.projection = nn.Conv2d(in_channels, embed_dims, WORD_KERNEL, stride, WORD_KERNEL // 2)
        self.stride, self.patch_size, self.padding = stride, patch_size, padding

    def forward(self, img: Tensor) -> Tensor:
        """``(B, in_channels, H, W)``, multiples of the patch, to ``(B*n, m, c)``."""
        B, C, H, W = img.shape
        edge, patch = self.patch_size // self.stride, self.patch_size
        if self.padding == 'patch':
            # Every patch becomes an image of its own, which the convolution pads.
            patches = img.view(B, C, H // patch, patch, W // patch, patch).permute(0, 2, 4, 1, 3, 5)
            return self.projection(patches.flatten(0, 2)).flatten(2).transpose(1, 2)
        words = self.projection(img).unflatten(3, (-1, edge)).unflatten(2, (-1, edge))  # (B, c, h, edge, w, edge)
        return words.permute(0, 2, 4, 3, 5, 1).reshape(-1, edge * edge, words.shape[1])


class WordProjection(nn.Module):
    """All words of a patch to one vector of the patches' width; ``norm`` is TNT's ``word_norm``."""

    def __init__(
        self, num_words: int, word_dims: int, embed_dims: int, *, norm: str, bias: bool, norm_cfg: Mapping[str, Any]
    ) -> None:
        super().__init__()
        width = num_words * word_dims
        self.per_word = norm == 'word'
        self.norm1 = build_norm_layer(dict(norm_cfg), word_dims if self.per_word else width)[1]
        self.proj = nn.Linear(width, embed_dims, bias=bias)
        self.norm2 = nn.Identity() if self.per_word else build_norm_layer(dict(norm_cfg), embed_dims)[1]

    def forward(self, words: Tensor) -> Tensor:
        """``(B*n, m, c)`` to ``(B*n, C)``."""
        normalised = self.norm1(words).flatten(1) if self.per_word else self.norm1(words.flatten(1))
        return self.norm2(self.proj(normalised))


class SqueezeExcitation(nn.Module):
    """Adds the gated tokens to the tokens: ``y + y * tanh(W2 relu(W1 LN(mean(y))))``."""

    def __init__(self, embed_dims: int, norm_cfg: Mapping[str, Any]) -> None:
        super().__init__()
        self.norm = build_norm_layer(dict(norm_cfg), embed_dims)[1]
        self.fc1 = nn.Linear(embed_dims, embed_dims // SE_REDUCTION)
        self.fc2 = nn.Linear(embed_dims // SE_REDUCTION, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.fc2(self.fc1(self.norm(x.mean(1, keepdim=True))).relu()).tanh()
        return x + x * gate


class TNTLayer(nn.Module):
    """Pre-norm transformer layer, inner or outer: ``x + MSA(LN(x))``, then ``x + MLP(LN(x))``."""

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        *,
        mlp_ratio: float,
        qkv_bias: bool,
        drop_rate: float,
        attn_drop_rate: float,
        drop_path_rate: float,
        with_se: bool = False,
        norm_cfg: Mapping[str, Any],
        act_cfg: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.norm1 = build_norm_layer(dict(norm_cfg), embed_dims)[1]
        drops: Any = {'attn_drop': attn_drop_rate, 'proj_drop': drop_rate}
        self.attn = SelfAttention(embed_dims, num_heads, qkv_bias=qkv_bias, **drops)
        self.norm2 = build_norm_layer(dict(norm_cfg), embed_dims)[1]
        self.ffn = MLP(embed_dims, int(mlp_ratio * embed_dims), act_cfg=act_cfg, drop=drop_rate)
        self.se = SqueezeExcitation(embed_dims, norm_cfg) if with_se else nn.Identity()
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        if not is_traced() and may_fuse(x) and self.is_fusable(x):
            from mmvit_ext.models.kernels.words import fused_layer

            return fused_layer(x, self.attn.num_heads, (self.norm1.eps, self.norm2.eps), *self.kernel_parameters())
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.se(self.ffn(self.norm2(x))))

    def is_fusable(self, x: Tensor) -> bool:
        """Whether one kernel can do what the children do: few small words, plain modules, nothing dropped."""
        attn, act = self.attn, self.ffn.act
        rates = (attn.attn_drop, attn.proj_drop.p, self.ffn.drop.p, self.drop_path.drop_prob)
        small = max(x.shape[1:]) <= FUSED_WORDS
        return small and are_plain(self, *PLAIN) and act.approximate == 'none' and not (self.training and any(rates))

    def kernel_parameters(self) -> list[Tensor]:
        """Weights and biases in the order in which a fused kernel takes them."""
        layers = (self.norm1, self.attn.qkv, self.attn.proj, self.norm2, self.ffn.fc1, self.ffn.fc2)
        return [
            part
            for layer in layers
            for part in (layer.weight, layer.weight[:, 0] * 0 if layer.bias is None else layer.bias)
        ]


PLAIN = (TNTLayer, SelfAttention, MLP, nn.Linear, nn.LayerNorm, nn.GELU, nn.Dropout, nn.Identity, DropPath)
FUSED_WORDS = 64  # most words and channels that fit into a program's registers


class TNTBlock(nn.Module):
    """Inner layer on words, their projection added to the patches' tokens, outer layer on these; or the last alone."""

    def __init__(self, inner: nn.Module | None, projection: nn.Module | None, outer: nn.Module) -> None:
        super().__init__()
        self.inner, self.projection, self.outer = inner, projection, outer

    def forward(self, words: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Words ``(B*n, m, c)`` and tokens ``(B, [1 +] n, C)`` to the same."""
        if self.inner is not None and self.projection is not None:
            words = self.inner(words)
            B, N, C = tokens.shape
            message = self.projection(words).view(B, -1, C)  # (B, n, C)
            tokens = tokens + F.pad(message, (0, 0, N - message.shape[1], 0))  # the class token gets no message
        return words, self.outer(tokens)


@MODELS.register_module()
class TNT(Backbone):
    r"""Transformer in transformer that returns feature maps of chosen blocks.

    With the words :math:`Y^i` of patch i and the tokens Z, block l computes (arXiv 2103.00112, equations 4 to 9)

    .. math::
        Y'_l = Y_{l-1} + \mathrm{MSA}(\mathrm{LN}(Y_{l-1})), \qquad Y_l = Y'_l + \mathrm{MLP}(\mathrm{LN}(Y'_l)), \\
        Z^i_{l-1} \leftarrow Z^i_{l-1} + \mathrm{LN}(W\,\mathrm{LN}(\mathrm{vec}(Y^i_l))), \\
        Z'_l = Z_{l-1} + \mathrm{MSA}(\mathrm{LN}(Z_{l-1})), \qquad Z_l = Z'_l + \mathrm{MLP}(\mathrm{LN}(Z'_l))

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'``, or a dict of ``embed_dims_outer`` (C), ``embed_dims_inner`` (c),
            ``num_layers``, ``num_heads_outer`` and ``num_heads_inner``.
        embed_dims_inner: Width c of the words instead of that of ``arch``. The paper keeps m c at 384 in TNT-S.
        num_heads_inner: Heads of the inner transformer instead of those of ``arch``; divides c.
        img_size: Training size in pixels, an edge or ``(H, W)``, of the position embedding.
        patch_size: Edge of a patch in pixels.
        inner_stride: Edge of a word in pixels; divides ``patch_size``. 2, 4 and 8 give 64, 16 and 4 words.
        in_channels: Image channels.
        tnt_block_indices: Blocks that have an inner transformer, the others being plain ViT blocks; negative values
            count from the end, and None means all. The paper counts from 1: its blocks 1, 4, 8, 12 are 0, 3, 7, 11.
        with_patch_pos: Whether patches have a position embedding.
        with_word_pos: Whether words have one, the same in every patch.
        word_padding: What words see beyond their patch: zeros (``'patch'``) or the next patch (``'image'``).
        word_norm: Before projection, words are normalised together and their projection again (``'sentence'``), or
            each by itself (``'word'``, with a bias in the projection).
        with_se: Whether squeeze and excitation follows the outer MLPs.
        with_cls_token: Whether a class token takes part.
        mlp_ratio: Hidden width of both MLPs over their width.
        qkv_bias: Whether queries, keys and values have a bias.
        drop_rate: Dropout, a probability.
        attn_drop_rate: Dropout of attention weights, a probability.
        drop_path_rate: Stochastic depth of the last block, growing linearly from 0 at the first; in the paper 0.1.
        norm_cfg: Normalisation; ``dict(type='LN')`` when not given.
        act_cfg: Activation of the MLPs; ``dict(type='GELU')`` when not given.
        final_norm: Whether the last block's output is normalised.
        interpolate_mode: Interpolation of the patches' position embedding.
        out_indices: Blocks whose output is returned, in this order; negative values count from the end.
        out_type: ``'featmap'`` for maps, ``'cls_token'`` or ``'avg_featmap'``, the mean over patches, for ``(B, C)``.
        frozen_stages: -1 trains everything, 0 freezes the embeddings, k the first k blocks too.
        with_cp: Activation checkpointing of every block.
        init_cfg: Initialisation, mmengine style.

    Shape:
        Input ``(B, in_channels, H, W)``, any H and W, filled up to whole patches with zeros below and on the right;
        outputs ``(B, C, ceil(H / patch), ceil(W / patch))`` each, contiguous in memory.

    Raises:
        ValueError: An argument is unknown, out of range, or contradicts another one.

    Note:
        The inner transformers cost 6 % of the operations of TNT-S. For classification with mmpretrain take
        ``out_type='cls_token'`` and ``LinearClsHead`` without a neck.
    """

    OUT_TYPES = ('featmap', 'cls_token', 'avg_featmap')
    ARCHS = arch_table(  # arXiv 2103.00112, table 1.
        ('embed_dims_outer', 'embed_dims_inner', 'num_layers', 'num_heads_outer', 'num_heads_inner'),
        tiny=(192, 12, 12, 3, 2),
        small=(384, 24, 12, 6, 4),
        base=(640, 40, 12, 10, 4),
    )

    def __init__(
        self,
        arch: str | Mapping[str, int] = 'small',
        *,
        embed_dims_inner: int | None = None,
        num_heads_inner: int | None = None,
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        inner_stride: int = 4,
        in_channels: int = 3,
        tnt_block_indices: Sequence[int] | None = None,
        with_patch_pos: bool = True,
        with_word_pos: bool = True,
        word_padding: str = 'patch',
        word_norm: str = 'sentence',
        with_se: bool = False,
        with_cls_token: bool = True,
        mlp_ratio: float = 4,
        qkv_bias: bool = False,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_cfg: Mapping[str, Any] | None = None,
        act_cfg: Mapping[str, Any] | None = None,
        final_norm: bool = True,
        interpolate_mode: str = 'bicubic',
        out_indices: int | Sequence[int] = -1,
        out_type: str = 'featmap',
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(out_type=out_type, frozen_stages=frozen_stages, with_cp=with_cp, init_cfg=init_cfg)
        check_choices(word_padding=(word_padding, WORD_PADDINGS), word_norm=(word_norm, WORD_NORMS))
        check_choices(interpolate_mode=(interpolate_mode, INTERPOLATIONS))
        check_rates(drop_rate=drop_rate, attn_drop_rate=attn_drop_rate, drop_path_rate=drop_path_rate)
        check_counts(patch_size=patch_size)
        if out_type == 'cls_token' and not with_cls_token:
            raise ValueError("out_type='cls_token' needs with_cls_token=True")
        if inner_stride < 1 or patch_size % inner_stride:
            raise ValueError(f'inner_stride must divide patch_size={patch_size}, got {inner_stride}')
        replaced: Any = {'embed_dims_inner': embed_dims_inner, 'num_heads_inner': num_heads_inner}
        settings = self.arch_settings(arch, **replaced)
        C, c, depth = (settings[name] for name in ('embed_dims_outer', 'embed_dims_inner', 'num_layers'))
        check_counts(embed_dims_outer=C, embed_dims_inner=c, num_layers=depth)
        for part, dims in (('outer', C), ('inner', c)):
            heads = settings[f'num_heads_{part}']
            check_heads(dims, heads, names=(f'num_heads_{part}', f'embed_dims_{part}'))
        self.embed_dims, self.word_dims, self.num_layers = C, c, depth
        self.patch_size, self.inner_stride, self.interpolate_mode = patch_size, inner_stride, interpolate_mode
        self.grid = token_grid(img_size, patch_size)
        self.declare(
            {f'blocks.{index}': (C, patch_size) for index in range(depth)},
            out_indices,
            others={f'blocks.{index}.inner': (c, inner_stride) for index in range(depth)},
        )
        norm_cfg, act_cfg = dict(norm_cfg or {'type': 'LN'}), dict(act_cfg or {'type': 'GELU'})

        m = (patch_size // inner_stride) ** 2
        places: dict[str, Any] = {'stride': inner_stride, 'patch_size': patch_size, 'padding': word_padding}
        self.word_embed = WordEmbedding(in_channels, c, **places)
        self.word_pos = nn.Parameter(torch.zeros(1, m, c)) if with_word_pos else None
        self.patch_embed = WordProjection(m, c, C, norm='sentence', bias=True, norm_cfg=norm_cfg)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, C)) if with_cls_token else None
        num_tokens = with_cls_token + self.grid[0] * self.grid[1]
        self.patch_pos = nn.Parameter(torch.zeros(1, num_tokens, C)) if with_patch_pos else None
        self.drop_after_pos = nn.Dropout(drop_rate)

        options: dict[str, Any] = {'mlp_ratio': mlp_ratio, 'qkv_bias': qkv_bias, 'drop_rate': drop_rate}
        options |= {'attn_drop_rate': attn_drop_rate, 'norm_cfg': norm_cfg, 'act_cfg': act_cfg}
        layer: Any = partial(TNTLayer, **options)
        wanted = range(depth) if tnt_block_indices is None else tnt_block_indices
        nested = resolve_indices(wanted, depth, 'blocks', name='tnt_block_indices', may_be_empty=True)
        self.blocks = nn.ModuleList()
        for index in range(depth):
            inner = projection = None
            rate = drop_path_rate * index / max(depth - 1, 1)
            if index in nested:
                inner = layer(c, settings['num_heads_inner'], drop_path_rate=rate)
                projection = WordProjection(m, c, C, norm=word_norm, bias=word_norm == 'word', norm_cfg=norm_cfg)
            outer = layer(C, settings['num_heads_outer'], drop_path_rate=rate, with_se=with_se)
            self.blocks.append(TNTBlock(inner, projection, outer))
        self.norm = build_norm_layer(norm_cfg, C)[1] if final_norm and depth - 1 in self.out_indices else None
        if with_patch_pos:
            track_position(self, 'patch_pos', self.grid, num_prefix_tokens=with_cls_token, mode=interpolate_mode)
        self.freeze()

    def stage_parts(self, stage: int) -> list[nn.Module | nn.Parameter]:
        if stage > 0:
            return [self.blocks[stage - 1]]
        return [self.word_embed, self.patch_embed, self.drop_after_pos, *self.parameters(recurse=False)]

    def _fit_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *arguments: Any) -> None:
        """Leave out a class token that this network does not have, and resize what is left."""
        token, position = f'{prefix}cls_token', f'{prefix}patch_pos'
        if self.cls_token is not None and token not in state_dict and position in state_dict:
            count = state_dict[position].shape[1]
            if count in (math.isqrt(count) ** 2, self.grid[0] * self.grid[1]):
                raise ValueError(f'{position} has no place for a class token: build TNT with with_cls_token=False')
        if self.cls_token is None and state_dict.pop(token, None) is not None and position in state_dict:
            stored = state_dict[position]
            state_dict[position] = stored[:, 1:]
            vars(state_dict[position]).update(vars(stored))  # the grid that a file tells
        super()._fit_state_dict(state_dict, prefix, *arguments)

    def init_parameters(self) -> None:
        """First values as in a plain ViT; the convolution keeps torch's own."""
        for parameter in self.parameters(recurse=False):
            trunc_normal_(parameter, std=0.02)
        init_linears(self)

    def embed(self, img: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Image ``(B, 3, H, W)`` to words ``(B*n, m, c)``, tokens ``(B, [1 +] n, C)`` and the grid ``(h, w)``."""
        B = img.shape[0]
        img = pad_to_multiple(img, self.patch_size)
        grid = (img.shape[2] // self.patch_size, img.shape[3] // self.patch_size)
        words = self.word_embed(img)
        if self.word_pos is not None:
            words = self.word_pos + words  # contiguous like the first operand; the convolution leaves channels first
        tokens = self.patch_embed(words).view(B, grid[0] * grid[1], -1)  # (B, n, C)
        if self.cls_token is not None:
            tokens = torch.cat((self.cls_token.to(tokens.dtype).expand(B, -1, -1), tokens), dim=1)
        if self.patch_pos is not None:
            prefix, mode = int(self.cls_token is not None), self.interpolate_mode
            position = resize_position_embedding(self.patch_pos, self.grid, grid, num_prefix_tokens=prefix, mode=mode)
            tokens = tokens + position
        return words, self.drop_after_pos(tokens), grid

    def words_as_map(self, words: Tensor, grid: tuple[int, int]) -> Tensor:
        """Words ``(B*n, m, c)`` of patches on a grid ``(h, w)`` as a map ``(B, c, H / s, W / s)``, s = inner_stride."""
        h, w = grid
        edge = self.patch_size // self.inner_stride
        cells = words.view(-1, h, w, edge, edge, self.word_dims)
        return cells.permute(0, 5, 1, 3, 2, 4).reshape(-1, self.word_dims, h * edge, w * edge)

    def collect(self, img: Tensor, names: Collection[str]) -> dict[str, Tensor | Tokens]:
        words, tokens, grid = self.embed(img)
        found: dict[str, Tensor | Tokens] = {}
        for name, block in zip(self.block_names[: self.num_blocks_run(names)], self.blocks, strict=False):
            words, tokens = checkpointed(block, words, tokens, with_cp=self.with_cp)
            if f'{name}.inner' in names:
                found[f'{name}.inner'] = self.words_as_map(words, grid)
            if name in names:
                norm = self.norm if name == self.block_names[-1] else None
                found[name] = Tokens(tokens if norm is None else norm(tokens), grid, int(self.cls_token is not None))
        return found
