"""NesT as the paper reads, on the weights of an ``mmvit_ext.NesT``: the side to compare with.

The map is padded once until whole blocks fit at every level, padded tokens are masked, maps are copied to blocks and
back, the softmax of the attention is written out, and every step keeps what it needs backwards.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvit_ext.models.backbones.nest import NesT
from mmvit_ext.models.layers.position_embedding import resize_position_embedding

MASKED = -1e9
"""Score of a padded token: finite, so that a block of nothing but padding has a softmax, too."""


def valid_tokens(size: tuple[int, int], padded: tuple[int, int], device: torch.device) -> Tensor:
    """``(1, 1, height, width)``, True for tokens of the image."""
    valid = torch.zeros(1, 1, *padded, dtype=torch.bool, device=device)
    valid[:, :, : size[0], : size[1]] = True
    return valid


def blockify(x: Tensor, edge: int) -> Tensor:
    """``(B, C, H, W)`` to ``(B, blocks, tokens, C)``."""
    B, C, H, W = x.shape
    x = x.reshape(B, C, H // edge, edge, W // edge, edge)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(B, -1, edge * edge, C)


def unblockify(x: Tensor, size: tuple[int, int], edge: int) -> Tensor:
    """``(B, blocks, tokens, C)`` to ``(B, C, H, W)``."""
    B, _, _, C = x.shape
    x = x.reshape(B, size[0] // edge, size[1] // edge, edge, edge, C)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(B, C, *size)


def plain_attention(attn: nn.Module, x: Tensor, valid: Tensor) -> Tensor:
    """Attention with the softmax written out; ``(B, T, N, C)`` to the same."""
    B, T, N, C = x.shape
    h = attn.num_heads
    qkv = F.linear(x, attn.qkv.weight, attn.qkv.bias)
    q, k, v = qkv.split((C, attn.kv_dims, attn.kv_dims), dim=-1)
    q, k, v = (part.reshape(B, T, N, -1, C // h).permute(0, 1, 3, 2, 4) for part in (q, k, v))  # (B, T, heads, N, C/h)
    scores = (q * (C // h) ** -0.5) @ k.transpose(-2, -1)
    if not valid.all():
        scores = scores.masked_fill(~valid[:, :, None, None, :, 0], MASKED)
    out = scores.softmax(dim=-1) @ v
    out = out.permute(0, 1, 3, 2, 4).reshape(B, T, N, C)
    return F.linear(out, attn.proj.weight, attn.proj.bias)


def plain_aggregation(aggregation: nn.Module, x: Tensor, valid: Tensor) -> Tensor:
    """Convolution, norm and pooling with "SAME" padding, for which padded tokens do not exist."""
    x = aggregation.conv(x * valid)
    x = aggregation.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    if not valid.all():
        x = x.masked_fill(~valid, -torch.inf)
    x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 3, 2)
    return x if valid.all() else x.masked_fill(x == -torch.inf, 0)


def plain_levels(model: NesT, img: Tensor) -> list[Tensor]:
    """Maps of all levels before the final norm, cropped."""
    patch = model.patch_size
    edge = model.block_size
    unit = edge * 2 ** (len(model.levels) - 1)
    img = F.pad(img, (0, -img.shape[3] % patch, 0, -img.shape[2] % patch))
    x = model.patch_embed.projection(img)
    size = (x.shape[2], x.shape[3])
    x = F.pad(x, (0, -size[1] % unit, 0, -size[0] % unit))
    outs = []
    for level in model.levels:
        if level.aggregation is not None:
            x = plain_aggregation(level.aggregation, x, valid_tokens(size, (x.shape[2], x.shape[3]), x.device))
            size = (-(-size[0] // 2), -(-size[1] // 2))
        padded = (x.shape[2], x.shape[3])
        position = resize_position_embedding(level.pos_embed, level.grid, size, mode=level.interpolate_mode)
        position = position.transpose(1, 2).unflatten(2, size)  # (1, C, H, W)
        position = F.pad(position, (0, padded[1] - size[1], 0, padded[0] - size[0]))
        valid = blockify(valid_tokens(size, padded, x.device), edge)  # (1, T, N, 1)
        x = blockify(x, edge) + blockify(position, edge)
        for layer in level.layers:
            x = x + plain_attention(layer.attn, layer.norm1(x), valid)
            mlp = layer.mlp
            hidden = mlp.act(F.linear(layer.norm2(x), mlp.fc1.weight, mlp.fc1.bias))
            x = x + F.linear(hidden, mlp.fc2.weight, mlp.fc2.bias)
        x = unblockify(x, padded, edge)
        outs.append(x[:, :, : size[0], : size[1]])
    return outs


def plain_nest(model: NesT, img: Tensor) -> list[Tensor]:
    """Maps of all levels, the last one with the final norm if the network has one."""
    outs = plain_levels(model, img)
    if model.norm is not None:
        outs[-1] = model.norm(outs[-1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return [out.contiguous() for out in outs]
