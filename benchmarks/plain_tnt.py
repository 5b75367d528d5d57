"""TNT as the paper reads, on the weights of an ``mmvit_ext.TNT``: the side to compare with.

The image is cut into patches that are images of their own, the softmax of every attention is written out, queries and
keys are projected apart from values as in the authors' names, and what every step needs backwards is kept.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmvit_ext.models.backbones.tnt import TNT
from mmvit_ext.models.layers.position_embedding import resize_position_embedding

__all__ = ['plain_attention', 'plain_tnt', 'plain_words']


def plain_words(img: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int, patch_size: int) -> Tensor:
    """Words of every patch ``(B*n, m, c)``, each patch an image of its own."""
    B, C, H, W = img.shape
    P = patch_size
    patches = img.reshape(B, C, H // P, P, W // P, P).permute(0, 2, 4, 1, 3, 5).reshape(-1, C, P, P)
    words = F.conv2d(patches, weight, bias, stride=stride, padding=weight.shape[-1] // 2)
    return words.flatten(2).transpose(1, 2)


def plain_attention(attn: nn.Module, x: Tensor) -> Tensor:
    """Self-attention with the softmax written out; ``(B, N, C)`` to the same."""
    B, N, C = x.shape
    h = attn.num_heads
    weight, bias = attn.qkv.weight, attn.qkv.bias
    qk = F.linear(x, weight[: 2 * C], None if bias is None else bias[: 2 * C])
    q, k = qk.reshape(B, N, 2, h, C // h).permute(2, 0, 3, 1, 4)
    v = F.linear(x, weight[2 * C :], None if bias is None else bias[2 * C :]).reshape(B, N, h, C // h).transpose(1, 2)
    weights = ((q @ k.transpose(-2, -1)) * (C // h) ** -0.5).softmax(dim=-1)
    out = (weights @ v).transpose(1, 2).reshape(B, N, C)
    return F.linear(out, attn.proj.weight, attn.proj.bias)


def plain_layer(layer: nn.Module, x: Tensor) -> Tensor:
    """Pre-norm transformer layer; ``(B, N, C)`` to the same."""
    x = x + layer.drop_path(plain_attention(layer.attn, layer.norm1(x)))
    fc1, fc2 = layer.ffn.fc1, layer.ffn.fc2
    hidden = layer.ffn.act(F.linear(layer.norm2(x), fc1.weight, fc1.bias))
    return x + layer.drop_path(layer.se(F.linear(hidden, fc2.weight, fc2.bias)))


def plain_projection(projection: nn.Module, words: Tensor) -> Tensor:
    """Words ``(B*n, m, c)`` to ``(B*n, C)``."""
    words = projection.norm1(words).flatten(1) if projection.per_word else projection.norm1(words.flatten(1))
    return projection.norm2(F.linear(words, projection.proj.weight, projection.proj.bias))


def plain_tnt(model: TNT, img: Tensor) -> list[Tensor]:
    """Maps of the blocks named by ``out_indices``, for a model with ``word_padding='patch'``."""
    B, P = len(img), model.patch_size
    img = F.pad(img, (0, -img.shape[3] % P, 0, -img.shape[2] % P))
    grid = (img.shape[2] // P, img.shape[3] // P)
    conv = model.word_embed.projection
    words = plain_words(img, conv.weight, conv.bias, stride=model.inner_stride, patch_size=P)
    words = words if model.word_pos is None else words + model.word_pos
    tokens = plain_projection(model.patch_embed, words).reshape(B, grid[0] * grid[1], -1)
    first = int(model.cls_token is not None)
    if model.cls_token is not None:
        tokens = torch.cat([model.cls_token.expand(B, -1, -1), tokens], dim=1)
    if model.patch_pos is not None:
        tokens = tokens + resize_position_embedding(model.patch_pos, model.grid, grid, num_prefix_tokens=first)
    outs = {}
    for index, block in enumerate(model.blocks):
        if block.inner is not None:
            words = plain_layer(block.inner, words)
            message = plain_projection(block.projection, words).reshape(B, grid[0] * grid[1], -1)
            tokens = torch.cat([tokens[:, :first], tokens[:, first:] + message], dim=1)
        tokens = plain_layer(block.outer, tokens)
        last = index == model.num_layers - 1 and model.norm is not None
        outs[index] = (model.norm(tokens) if last else tokens)[:, first:].transpose(1, 2).reshape(B, -1, *grid)
    return [outs[index] for index in model.out_indices]
