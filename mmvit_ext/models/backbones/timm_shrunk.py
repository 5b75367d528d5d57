r"""Query-based downsampling in timm's blocks; imported where such a network is built, because it needs timm.

Paper: SegViT, Zhang et al., NeurIPS 2022, arXiv 2210.05844, section 3.2: one block attends from every second row and
column of the tokens to all of them, :math:`x' = x_\downarrow + \mathrm{Attn}(q=x_\downarrow, k=v=x)`, and the blocks
after it work on a quarter of the tokens. Class tokens and registers are kept; rotary queries keep their positions.

Shapes: B batch, P class tokens and registers, (h, w) grid of tokens, N = P + h*w, C width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.layers import AttentionRope, apply_rot_embed_cat
from timm.models.eva import EvaAttention, EvaBlock
from timm.models.vision_transformer import Attention, Block
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from mmvit_ext.models.backbones.timm_positions import prepare_blocks

__all__ = ['shrink_from', 'tell_tokens']


class ThinnedQueries(nn.Module):
    """Attention of timm's blocks from the tokens ``keep`` to all tokens."""

    def forward(self, x: Tensor, keep: Tensor, rope: Tensor | None = None) -> Tensor:
        """``(B, N, C)`` to ``(B, len(keep), C)``."""
        attn: Any = self
        if attn.qkv is not None:
            qkv = attn.qkv(x)
            if getattr(attn, 'q_bias', None) is not None:
                qkv = qkv + torch.cat((attn.q_bias, attn.k_bias, attn.v_bias))
            q, k, v = qkv.unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, N, C / heads) each
            q = q[:, :, keep]
        else:
            q, k, v = (
                project(tokens).unflatten(2, (attn.num_heads, -1)).transpose(1, 2)
                for project, tokens in ((attn.q_proj, x[:, keep]), (attn.k_proj, x), (attn.v_proj, x))
            )
        q, k = attn.q_norm(q), attn.k_norm(k)
        if rope is not None:
            first, half = attn.num_prefix_tokens, attn.rotate_half
            kept = rope[..., keep[first:] - first, :]
            q = torch.cat([q[:, :, :first], apply_rot_embed_cat(q[:, :, first:], kept, half=half)], dim=2).type_as(v)
            k = torch.cat([k[:, :, :first], apply_rot_embed_cat(k[:, :, first:], rope, half=half)], dim=2).type_as(v)
        out = scaled_dot_product_attention(q, k, v, dropout_p=attn.attn_drop.p if attn.training else 0.0)
        out = attn.norm(out.transpose(1, 2).flatten(2))
        if attn.gate is not None:
            out = out * attn.gate(x[:, keep]).sigmoid()
        return attn.proj_drop(attn.proj(out))


class ThinnedAttention(ThinnedQueries, Attention):  # type: ignore[misc]
    """Attention of timm's VisionTransformer with fewer queries than keys."""


class ThinnedEvaAttention(ThinnedQueries, EvaAttention):  # type: ignore[misc]
    """Attention of timm's Eva with fewer queries than keys."""


class ThinnedRopeAttention(ThinnedQueries, AttentionRope):  # type: ignore[misc]
    """Attention of timm's later Eva networks with fewer queries than keys."""


class ShrinkingBlock(Block):
    """A block of timm's VisionTransformer with fewer queries than keys."""

    def forward(self, x: Tensor, keep: Tensor, **_: Any) -> Tensor:  # type: ignore[override]
        """``(B, N, C)`` to ``(B, P + ceil(h / 2) * ceil(w / 2), C)``."""
        x = x[:, keep] + self.drop_path1(self.ls1(self.attn(self.norm1(x), keep)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class ShrinkingEvaBlock(EvaBlock):
    """A block of timm's Eva with fewer queries than keys."""

    def forward(self, x: Tensor, keep: Tensor, rope: Tensor | None = None, **_: Any) -> Tensor:  # type: ignore[override]
        """``(B, N, C)`` to ``(B, P + ceil(h / 2) * ceil(w / 2), C)``."""
        out = self.attn(self.norm1(x), keep, rope)
        x = x[:, keep] + self.drop_path1(out if self.gamma_1 is None else self.gamma_1 * out)
        out = self.mlp(self.norm2(x))
        return x + self.drop_path2(out if self.gamma_2 is None else self.gamma_2 * out)


class LaterEvaBlock(EvaBlock):
    """A block behind the shrinking one: it is given the rotary embedding of all tokens and takes that of its own."""

    def forward(  # type: ignore[override]
        self, x: Tensor, keep: Tensor, rope: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        if rope is not None:
            rope = rope[..., keep[self.attn.num_prefix_tokens :] - self.attn.num_prefix_tokens, :]
        return super().forward(x, rope, **kwargs)


def shrink_from(network: Any, index: int) -> None:
    """Let block ``index`` of a network downsample its queries.

    Raises:
        ValueError: The blocks are of another kind than timm's standard ones.
    """
    kinds = {Block: (ShrinkingBlock, Block), EvaBlock: (ShrinkingEvaBlock, LaterEvaBlock)}
    attentions = {
        Attention: ThinnedAttention,
        EvaAttention: ThinnedEvaAttention,
        AttentionRope: ThinnedRopeAttention,
    }
    blocks = network.blocks[index:]
    attn = network.blocks[index].attn
    if not all(type(block) in kinds for block in blocks) or type(attn) not in attentions:
        raise ValueError(f"shrink_index needs timm's standard blocks, got {type(network.blocks[index]).__name__}")
    attn.__class__ = attentions[type(attn)]
    for number, block in enumerate(blocks):
        block.__class__ = kinds[type(block)][min(number, 1)]
    prepare_blocks(network)


def tell_tokens(network: Any, size: tuple[int, int], device: torch.device) -> None:
    """State the tokens of a grid ``size = (h, w)`` that are kept to all blocks that need it."""
    first = network.num_prefix_tokens
    grid = torch.arange(size[0] * size[1], device=device).view(size)[::2, ::2]
    keep = torch.cat([torch.arange(first, device=device), grid.flatten() + first])
    network.blocks.prepare = partial(with_tokens, keep)


def with_tokens(keep: Tensor, block: nn.Module) -> Callable[..., Tensor]:
    """A block that is given the tokens that are kept, if it needs them."""
    if isinstance(block, ShrinkingBlock | ShrinkingEvaBlock | LaterEvaBlock):
        return partial(block, keep=keep)
    return block
