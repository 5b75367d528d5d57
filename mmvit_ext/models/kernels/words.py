"""TNT's inner layer, with the words of a patch in registers from its first norm to the end of its MLP.

The plain form is :class:`mmvit_ext.models.backbones.tnt.TNTLayer`. A patch is a matrix of 16 words and 24 channels in
TNT-S; word by word and head by head everything fits into one program, which reads the patch once and writes it once.

Shapes: G patches, m words, c channels, r hidden channels, d channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

__all__ = ['fused_layer', 'plain_layer']


@triton.jit
def _norm(x, weight, bias, c, eps, column, real):
    mean = tl.sum(x, 1) / c
    centred = tl.where(real, x - mean[:, None], 0.0)
    deviation = tl.sqrt(tl.sum(centred * centred, 1) / c + eps)
    scale, shift = tl.load(weight + column, column < c, 0.0), tl.load(bias + column, column < c, 0.0)
    return tl.where(real, centred / deviation[:, None] * scale[None] + shift[None], 0.0)


@triton.jit
def _linear(x, weight, bias, first, inputs, outputs, IP: tl.constexpr, OP: tl.constexpr):
    """``x W^T + b`` for the outputs of a weight ``(outputs, inputs)`` from row ``first`` on."""
    source, target = tl.arange(0, IP), tl.arange(0, OP)
    inside = (source[:, None] < inputs) & (target[None] < outputs)
    matrix = tl.load(weight + (first + target[None]) * inputs + source[:, None], inside, 0.0)
    offset = tl.load(bias + first + target, target < outputs, 0.0)
    return tl.dot(x, matrix, input_precision='ieee') + offset[None]


@triton.jit
def _layer(
    words, out, w1, b1, qkv, qkv_bias, proj, proj_bias, w2, b2, up, up_bias, down, down_bias,
    m, c, r, d, eps1, eps2, HEADS: tl.constexpr, MP: tl.constexpr, CP: tl.constexpr, RP: tl.constexpr,
):  # fmt: skip
    patch = tl.program_id(0)
    row, column = tl.arange(0, MP), tl.arange(0, CP)
    real = (row[:, None] < m) & (column[None] < c)
    place = (patch * m + row[:, None]) * c + column[None]
    x = tl.load(words + place, real, 0.0).to(tl.float32)
    normed = _norm(x, w1, b1, c, eps1, column, real)
    q = _linear(normed, qkv, qkv_bias, 0, c, c, CP, CP)
    k = _linear(normed, qkv, qkv_bias, c, c, c, CP, CP)
    v = _linear(normed, qkv, qkv_bias, 2 * c, c, c, CP, CP)
    exists = row[None] < m
    mixed = tl.zeros([MP, CP], tl.float32)
    for head in tl.static_range(HEADS):
        own = (column // d == head)[None]  # the other heads' channels are zero in the products
        score = tl.dot(tl.where(own, q, 0.0), tl.trans(k), input_precision='ieee') / tl.sqrt(d * 1.0)
        score = tl.where(exists, score, float('-inf'))
        share = tl.exp(score - tl.max(score, 1)[:, None])
        share = share / tl.sum(share, 1)[:, None]
        mixed += tl.dot(share, tl.where(own, v, 0.0), input_precision='ieee')
    x += tl.where(real, _linear(mixed, proj, proj_bias, 0, c, c, CP, CP), 0.0)
    hidden = _linear(_norm(x, w2, b2, c, eps2, column, real), up, up_bias, 0, c, r, CP, RP)
    hidden = 0.5 * hidden * (1 + tl.erf(hidden * 0.7071067811865476))
    x += tl.where(real, _linear(hidden, down, down_bias, 0, r, c, RP, CP), 0.0)
    tl.store(out + place, x.to(out.dtype.element_ty), real)


def plain_layer(x: Tensor, num_heads: int, eps: tuple[float, float], *parameters: Tensor) -> Tensor:
    """The layer on its parameters: weight and bias of norm 1, qkv, proj, norm 2, fc1 and fc2."""
    w1, b1, qkv, qkv_bias, proj, proj_bias, w2, b2, up, up_bias, down, down_bias = parameters
    c = (x.shape[-1],)
    q, k, v = F.linear(F.layer_norm(x, c, w1, b1, eps[0]), qkv, qkv_bias).chunk(3, -1)
    q, k, v = (part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in (q, k, v))
    x = x + F.linear(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2), proj, proj_bias)
    return x + F.linear(F.gelu(F.linear(F.layer_norm(x, c, w2, b2, eps[1]), up, up_bias)), down, down_bias)


class _FusedLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, num_heads: int, eps: tuple[float, float], *parameters: Tensor) -> Tensor:
        (G, m, c), r = x.shape, parameters[8].shape[0]
        ctx.save_for_backward(x, *parameters)
        ctx.settings = num_heads, eps
        x, out = x.contiguous(), torch.empty(x.shape, dtype=x.dtype, device=x.device)
        padded = [max(16, triton.next_power_of_2(size)) for size in (m, c, r)]
        _layer[(G,)](x, out, *parameters, m, c, r, c // num_heads, *eps, num_heads, *padded)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = (tensor.detach().requires_grad_() for tensor in ctx.saved_tensors)
        with torch.enable_grad():
            out = plain_layer(x, *ctx.settings, *parameters)
        grad_x, *grads = torch.autograd.grad(out, (x, *parameters), grad)
        return grad_x, None, None, *grads


def fused_layer(x: Tensor, num_heads: int, eps: tuple[float, float], *parameters: Tensor) -> Tensor:
    """:func:`plain_layer` of words ``(G, m, c)`` in one kernel; every number is computed in float32."""
    return _FusedLayer.apply(x, num_heads, eps, *parameters)
