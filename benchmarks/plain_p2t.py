"""P2T as the paper reads, on the weights of an ``mmvit_ext.P2T``: the side to compare with.

Maps are kept as ``(B, C, H, W)`` and copied to tokens and back wherever a step wants the other layout, the softmax of
the attention is written out, and what an activation and the convolution after it need backwards is kept for both.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmvit_ext.models.backbones.p2t import P2T, POOLINGS, pooled_size


def plain_attention(attn: nn.Module, x: Tensor, size: tuple[int, int], rpe_convs: nn.ModuleList) -> Tensor:
    """P-MHSA with the softmax written out; tokens ``(B, N, C)`` to the same."""
    B, N, C = x.shape
    h = attn.num_heads
    feature = x.permute(0, 2, 1).reshape(B, C, *size)
    pools = []
    for ratio, conv in zip(attn.pool_ratios, rpe_convs, strict=True):
        pool = POOLINGS[attn.pool_type](feature, pooled_size(size, ratio))
        pools.append((pool + conv(pool)).flatten(2))
    pooled = attn.norm(torch.cat(pools, dim=2).permute(0, 2, 1))  # (B, M, C)
    q = nn.functional.linear(x, attn.q.weight, attn.q.bias).reshape(B, N, h, C // h).permute(0, 2, 1, 3)
    kv = nn.functional.linear(pooled, attn.kv.weight, attn.kv.bias).reshape(B, -1, 2, h, C // h)
    k, v = kv.permute(2, 0, 3, 1, 4)
    weights = ((q @ k.transpose(-2, -1)) * (C // h) ** -0.5).softmax(dim=-1)
    out = (weights @ v).transpose(1, 2).contiguous().reshape(B, N, C)
    return nn.functional.linear(out, attn.proj.weight, attn.proj.bias)


def plain_ffn(ffn: nn.Module, x: Tensor, size: tuple[int, int]) -> Tensor:
    """Inverted bottleneck on a map of its own; tokens ``(B, N, C)`` to the same."""
    B, _, C = x.shape
    hidden = ffn.act(ffn.fc1(x.permute(0, 2, 1).reshape(B, C, *size)))
    hidden = ffn.act(ffn.conv(hidden))
    return ffn.fc2(hidden).reshape(B, C, -1).permute(0, 2, 1)


def plain_p2t(model: P2T, img: Tensor) -> list[Tensor]:
    """Maps of the four stages."""
    outs = []
    x = img
    for stage in model.stages:
        embed = stage.patch_embed
        x = embed.projection(x)
        size = (x.shape[2], x.shape[3])
        x = embed.norm(x.flatten(2).transpose(1, 2))
        for block in stage.blocks:
            x = x + block.drop_path(plain_attention(block.attn, block.norm1(x), size, stage.rpe_convs))
            x = x + block.drop_path(plain_ffn(block.ffn, block.norm2(x), size))
        x = x.reshape(x.shape[0], *size, -1).permute(0, 3, 1, 2).contiguous()
        outs.append(x)
    return outs
