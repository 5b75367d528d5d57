r"""Vision transformer on superpixels that adapt to the image.

Paper: SPFormer, Mei et al., arXiv 2401.02931 (TMLR 2025), sections 3.2 and 3.3. Self-attention works on a grid of
superpixels; superpixel cross attention (SCA, :mod:`mmvit_ext.models.superpixels.attention`) before the first and
the third block gathers them from pixel features of a finer stride and finds which pixel belongs to which superpixel.

Choices where the paper leaves one: pixels are not projected inside SCA, since with a projection S/32 would need more
operations than DeiT-T, which it does not; each iteration has weights of its own; queries, keys and values are
normalised over C channels each; an iteration after which nobody reads the pixels has no parameters for them.

Shapes: B batch, C width, H and W input size in pixels, s = pixel_stride, p = cell_size, (h, w) = ceil(H / s),
ceil(W / s) pixel features, (sh, sw) = ceil(H / (p s)), ceil(W / (p s)) superpixels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model.weight_init import kaiming_init, trunc_normal_
from torch import Tensor, nn

from mmvit_ext.models.backbones.base import (
    Backbone,
    Tokens,
    arch_table,
    channels_last,
    checkpointed,
    normalised_by_mean,
    token_grid,
)
from mmvit_ext.models.backbones.vit import ViTLayer
from mmvit_ext.models.layers.attention import check_choices, check_counts, check_heads, check_rates
from mmvit_ext.models.layers.mlp import init_linears
from mmvit_ext.models.layers.open_sizes import cover, cut_to, pad_to_multiple
from mmvit_ext.models.layers.position_embedding import INTERPOLATIONS, resize_position_embedding, track_position
from mmvit_ext.models.superpixels.attention import PIXEL_QKV, POSITIONS, SuperpixelCrossAttention
from mmvit_ext.models.superpixels.grid import superpixel_to_pixel
from mmvit_ext.registry import MODELS

__all__ = ['SPFormer']

STEMS = ('patchify', 'conv')
BRIDGES = ('input', 'updated')


def build_stem(kind: str, in_channels: int, embed_dims: int, stride: int, norm_cfg: Mapping[str, Any]) -> nn.Sequential:
    """Image to pixel features at ``stride``: one patch convolution, or 3x3 ones that double their width up to C."""
    if kind == 'patchify':
        patches = nn.Conv2d(in_channels, embed_dims, stride, stride, bias=False)
        return nn.Sequential(patches, build_norm_layer(dict(norm_cfg), embed_dims)[1])
    steps = stride.bit_length() - 1
    if stride != 2**steps or steps < 1 or embed_dims % 2 ** (steps - 1):
        wanted = 'pixel_stride to be a power of 2 from 2 on and C a multiple of half of it'
        raise ValueError(f"stem='conv' needs {wanted}, got pixel_stride={stride} and C={embed_dims}")
    widths = [in_channels, *(embed_dims >> (steps - 1 - step) for step in range(steps))]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), build_norm_layer(dict(norm_cfg), after)[1]]
        layers += [nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


@MODELS.register_module()
class SPFormer(Backbone):
    r"""Superpixel transformer that returns superpixel maps of chosen blocks and, if wanted, the association.

    A stage updates superpixels S and pixels P by SCA, adds a learned position embedding to S and runs ViT blocks on
    it. Between two stages pixels and superpixels are renewed (arXiv 2401.02931, equation 1 and section 3.3),

    .. math:: P \leftarrow P_0 + \sum_{n=0}^{8} \mathrm{softmax}_n(a)\, S_n, \qquad
        S \leftarrow \mathrm{Conv}_{1 \times 1}(\mathrm{LN}(S))

    with the similarity a of the stage's last SCA iteration. S starts as the average of the pixel features of each
    cell. There is no class token.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'``, or a dict of ``embed_dims``, ``depths``, ``num_heads`` and
            ``sca_heads``; the four keywords below replace single entries.
        embed_dims: Width C.
        depths: ViT blocks of each stage; each stage starts with an SCA module. ``(12,)`` has SCA at the start only.
        num_heads: Heads of the self-attention; divides C.
        sca_heads: Heads of the SCA; divides C.
        img_size: Training size in pixels, an edge or ``(H, W)``, of the position embeddings.
        pixel_stride: Stride s of the pixel features in pixels: 4 for the /16 models, 8 for the /32 ones.
        cell_size: Edge p of a superpixel's own cell, in pixel features.
        in_channels: Image channels.
        stem: ``'patchify'``, one convolution, or ``'conv'``, 3x3 ones of stride 2 (the paper's dagger variants).
        sca_iterations: Iterations of each SCA module, at least 1.
        pixel_qkv: The pixels' queries, keys and values: ``'identity'``, the pixel features; ``'shared'``, one
            normalised projection of them; ``'separate'``, one for each.
        positions: How positions enter SCA: ``'cpe'``, a depthwise 3x3 convolution, or ``'learnable'`` embeddings.
        bridge_from: What pixels are added to between stages: the stage's ``'input'`` or what its SCA ``'updated'``.
        layer_scale_init: Initial scale of SCA's updates.
        mlp_ratio: Hidden width of the FFN over C.
        qkv_bias: Whether the self-attention's projections have a bias.
        drop_rate: Dropout, a probability.
        attn_drop_rate: Dropout of self-attention weights, a probability.
        drop_path_rate: Stochastic depth of the last block, growing linearly from 0; in the paper 0.1, for base 0.6.
        norm_cfg: Normalisation; ``dict(type='LN')`` when not given.
        stem_norm_cfg: Normalisation in the stem; ``dict(type='BN')`` when not given.
        act_cfg: Activation of the FFN; ``dict(type='GELU')`` when not given.
        interpolate_mode: Interpolation of the superpixels' position embeddings.
        out_indices: Blocks of all stages whose output is returned, in this order; negative ones from the end.
        out_type: ``'featmap'`` for maps; ``'avg_featmap'`` for one block's normalised mean ``(B, C)`` over superpixels.
        out_association: Whether the outputs end with the last similarity ``(B, sca_heads, 9, h, w)``; see the note.
        frozen_stages: -1 trains everything, 0 freezes the stem, k the first k stages too.
        with_cp: Activation checkpointing of SCA modules and blocks.
        init_cfg: Initialisation, mmengine style.

    Shape:
        Input ``(B, in_channels, H, W)``, any H and W; outputs ``(B, C, sh, sw)`` each, then the similarity if wanted.

    Raises:
        ValueError: An argument is unknown, out of range, or contradicts another one.

    Note:
        The similarity is the last entry of the output tuple, behind the maps: leave ``out_association`` off for heads
        with ``in_index=-1`` and in front of a neck that counts its inputs. Neighbour n of a pixel feature at row i and
        column j is superpixel ``(i // p + n // 3 - 1, j // p + n % 3 - 1)``, with -inf outside the grid, and a softmax
        over the 9 is the association of equation 1. The sum of all heads over the square root of their number is the
        similarity of one wide head. (h, w) are those of the image; the last cells may be cut.
    """

    # arXiv 2401.02931, section 4.1.
    ARCHS = arch_table(
        ('embed_dims', 'depths', 'num_heads', 'sca_heads'),
        tiny=(192, (2, 10), 3, 2),
        small=(384, (2, 10), 6, 2),
        base=(768, (2, 10), 12, 3),
    )

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'small',
        *,
        embed_dims: int | None = None,
        depths: Sequence[int] | None = None,
        num_heads: int | None = None,
        sca_heads: int | None = None,
        img_size: int | Sequence[int] = 224,
        pixel_stride: int = 4,
        cell_size: int = 4,
        in_channels: int = 3,
        stem: str = 'patchify',
        sca_iterations: int = 2,
        pixel_qkv: str = 'identity',
        positions: str = 'cpe',
        bridge_from: str = 'input',
        layer_scale_init: float = 1e-5,
        mlp_ratio: float = 4,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_cfg: Mapping[str, Any] | None = None,
        stem_norm_cfg: Mapping[str, Any] | None = None,
        act_cfg: Mapping[str, Any] | None = None,
        interpolate_mode: str = 'bicubic',
        out_indices: int | Sequence[int] = -1,
        out_type: str = 'featmap',
        out_association: bool = False,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(out_type=out_type, frozen_stages=frozen_stages, with_cp=with_cp, init_cfg=init_cfg)
        check_choices(stem=(stem, STEMS), pixel_qkv=(pixel_qkv, PIXEL_QKV), positions=(positions, POSITIONS))
        check_choices(bridge_from=(bridge_from, BRIDGES), interpolate_mode=(interpolate_mode, INTERPOLATIONS))
        check_counts(pixel_stride=pixel_stride, cell_size=cell_size, sca_iterations=sca_iterations)
        check_rates(drop_rate=drop_rate, attn_drop_rate=attn_drop_rate, drop_path_rate=drop_path_rate)
        replaced: Any = {'embed_dims': embed_dims, 'depths': depths, 'num_heads': num_heads, 'sca_heads': sca_heads}
        settings = self.arch_settings(arch, **replaced)
        self.embed_dims, self.depths = int(settings['embed_dims']), tuple(settings['depths'])
        check_heads(self.embed_dims, int(settings['sca_heads']), names=('sca_heads', 'embed_dims'))
        self.pixel_stride, self.cell_size = pixel_stride, cell_size
        self.interpolate_mode, self.bridge_from, self.out_association = interpolate_mode, bridge_from, out_association
        self.grid = token_grid(img_size, pixel_stride * cell_size)
        norm_cfg, act_cfg = dict(norm_cfg or {'type': 'LN'}), dict(act_cfg or {'type': 'GELU'})

        C, num_blocks, num_stages = self.embed_dims, sum(self.depths), len(self.depths)
        self.stem = build_stem(stem, in_channels, C, pixel_stride, stem_norm_cfg or {'type': 'BN'})
        sca: dict[str, Any] = {'iterations': sca_iterations, 'pixel_qkv': pixel_qkv, 'positions': positions}
        sca |= {'grids': ((self.grid[0] * cell_size, self.grid[1] * cell_size), self.grid)}
        sca |= {'norm_cfg': norm_cfg, 'layer_scale_init': layer_scale_init}
        updated = [bridge_from == 'updated' and stage < num_stages - 1 for stage in range(num_stages)]
        self.sca = nn.ModuleList(
            SuperpixelCrossAttention(C, int(settings['sca_heads']), update_pixels=update, **sca) for update in updated
        )
        self.pos_embeds = nn.ParameterList(torch.zeros(1, self.grid[0] * self.grid[1], C) for _ in self.depths)
        self.drop_after_pos = nn.Dropout(drop_rate)
        options: dict[str, Any] = {'qkv_bias': qkv_bias, 'drop_rate': drop_rate, 'attn_drop_rate': attn_drop_rate}
        options |= {'norm_cfg': norm_cfg, 'act_cfg': act_cfg}
        rates = [drop_path_rate * index / max(num_blocks - 1, 1) for index in range(num_blocks)]
        self.layers = nn.ModuleList(
            ViTLayer(C, int(settings['num_heads']), int(mlp_ratio * C), drop_path_rate=rate, **options)
            for rate in rates
        )
        self.projections = nn.ModuleList(
            nn.Sequential(build_norm_layer(norm_cfg, C)[1], nn.Linear(C, C)) for _ in range(num_stages - 1)
        )
        self.norm = build_norm_layer(norm_cfg, C)[1] if out_type == 'avg_featmap' else None
        self.first_blocks = tuple(sum(self.depths[:stage]) for stage in range(num_stages))
        owners: dict[str, str] = {}
        for stage, first in enumerate(self.first_blocks):
            names = [f'sca.{stage}', f'pos_embeds.{stage}', *([f'projections.{stage - 1}'] if stage else [])]
            owners |= dict.fromkeys(names, f'layers.{first}')
            track_position(self, f'pos_embeds.{stage}', self.grid, mode=interpolate_mode)
        blocks = {f'layers.{index}': (C, pixel_stride * cell_size) for index in range(num_blocks)}
        self.declare(blocks, out_indices, num_frozen_stages=num_stages, owners=owners)
        if out_type == 'avg_featmap' and (out_association or len(self.out_indices) > 1):
            wanted = 'out_association must be False and out_indices name one block'
            raise ValueError(f"out_type='avg_featmap': {wanted}, got {out_association} and {out_indices!r}")
        self.freeze()

    def stage_parts(self, stage: int) -> list[nn.Module | nn.Parameter]:
        if stage == 0:
            return [self.stem]
        index, first = stage - 1, self.first_blocks[stage - 1]
        blocks = self.layers[first : first + self.depths[index]]
        return [self.sca[index], self.pos_embeds[index], *self.projections[max(index - 1, 0) : index], *blocks]

    def unused_parts(self) -> list[nn.Module | nn.Parameter]:
        """Parts that no output depends on: later blocks, and what updates the pixels after the last SCA that runs."""
        num_blocks = max(self.out_indices) + 1
        run = sum(first < num_blocks for first in self.first_blocks)
        later = [part for stage in range(run, len(self.depths)) for part in self.stage_parts(stage + 1)]
        return [*self.layers[num_blocks:], *later, *self.sca[run - 1].iterations[-1].pixel_update_parts()]

    def init_parameters(self) -> None:
        """First values as in a plain ViT, also of SCA's linear layers; its convolutions keep torch's own."""
        for embedding in self.pos_embeds:
            trunc_normal_(embedding, std=0.02)
        init_linears(self)
        for module in self.stem.modules():
            if isinstance(module, nn.Conv2d):
                kaiming_init(module, mode='fan_in', bias=0.0)

    def run(
        self, img: Tensor, names: Collection[str] | None = None
    ) -> tuple[dict[str, Tokens], tuple[tuple[Tensor, ...], ...]]:
        """What the named blocks (by default the outputs) give, and each SCA module's similarity of every iteration."""
        found, history = self._run(img, names)
        h, w = (cover(edge, self.pixel_stride) for edge in img.shape[-2:])
        return found, tuple(
            tuple(cut_to(similarity, (h, w)) for similarity in similarities) for similarities in history
        )

    def _run(self, img: Tensor, names: Collection[str] | None) -> tuple[dict[str, Tokens], list[tuple[Tensor, ...]]]:
        """:meth:`run`, with the similarities of the padding."""
        names = self.out_names if names is None else names
        num_blocks = self.num_blocks_run(names)
        padded = pad_to_multiple(img, self.pixel_stride * self.cell_size)
        # Channels last in memory: what follows works on all channels of a pixel at a time.
        pixels = self.stem(channels_last(padded))  # (B, C, p*sh, p*sw)
        superpixels = F.avg_pool2d(pixels, self.cell_size)  # (B, C, sh, sw)
        grid = (superpixels.shape[2], superpixels.shape[3])
        found: dict[str, Tokens] = {}
        history = []
        for stage, first in enumerate(self.first_blocks):
            entered = pixels
            pixels, superpixels, similarities = checkpointed(self.sca[stage], pixels, superpixels, with_cp=self.with_cp)
            history.append(similarities)
            embedding = resize_position_embedding(self.pos_embeds[stage], self.grid, grid, mode=self.interpolate_mode)
            tokens = self.drop_after_pos(superpixels.flatten(2).transpose(1, 2) + embedding)  # (B, sh*sw, C)
            for index in range(first, min(first + self.depths[stage], num_blocks)):
                tokens = checkpointed(self.layers[index], tokens, with_cp=self.with_cp)
                if self.block_names[index] in names:
                    found[self.block_names[index]] = Tokens(tokens, grid)
            if first + self.depths[stage] >= num_blocks:
                break
            base = entered if self.bridge_from == 'input' else pixels
            pixels = base + superpixel_to_pixel(Tokens(tokens, grid).to_map(), similarities[-1].softmax(2))
            superpixels = Tokens(self.projections[stage](tokens), grid).to_map()
        return found, history

    def collect(self, img: Tensor, names: Collection[str]) -> dict[str, Tokens]:
        return self._run(img, names)[0]

    def to_output(self, found: Tokens) -> Tensor:  # type: ignore[override]
        """An output: a map, or the normalised mean of the superpixels."""
        return super().to_output(found) if self.norm is None else self.norm(found.x.mean(1))

    def to_averaged_map(self, found: Tokens) -> Tensor:  # type: ignore[override]
        """A map whose mean is the normalised mean: each place as the norm treats it with the variance of the mean."""
        if self.norm is None:
            return super().to_averaged_map(found)
        return Tokens(normalised_by_mean(self.norm, found.x), found.size).to_map()

    def forward(self, img: Tensor) -> tuple[Tensor, ...]:
        """Maps of the blocks named by ``out_indices``, then the similarity if wanted; see the class."""
        if not self.out_association:
            return super().forward(img)
        found, history = self.run(img)
        return (*(self.to_output(found[name]) for name in self.out_names), history[-1][-1])
