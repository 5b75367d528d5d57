"""The Attention-to-Mask decoder as the paper reads, on the weights of an ``ATMHead``: the side to compare with.

Every layer computes the similarities of all heads, ``(B, heads, N, L)``, and keeps them; every stage's masks, all N of
them, are upsampled to the label at every training step before the matched ones are picked, and so is the fused map.
Also the slow reference of the tests.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvit_ext.models.decode_heads.atm_head import ATMHead


def plain_attention(q: Tensor, k: Tensor, v: Tensor, num_heads: int, dropout: float) -> tuple[Tensor, Tensor]:
    """Attention written out; returns the attended values and the similarities before the softmax."""
    B, N, C = q.shape
    q, k, v = (x.reshape(B, -1, num_heads, C // num_heads).permute(0, 2, 1, 3) for x in (q, k, v))
    similarity = (q @ k.transpose(-2, -1)) / (C // num_heads) ** 0.5
    weights = F.dropout(similarity.softmax(-1), dropout)
    return (weights @ v).permute(0, 2, 1, 3).reshape(B, N, C), similarity


def plain_layer(layer: torch.nn.Module, queries: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """One decoder layer; returns queries and the similarities of all heads."""
    own, cross = layer.self_attn, layer.cross_attn
    dropout = layer.dropout.p if layer.training else 0.0
    q, k, v = F.linear(queries, own.in_proj_weight, own.in_proj_bias).chunk(3, dim=-1)
    attended, _ = plain_attention(q, k, v, own.num_heads, dropout)
    queries = layer.norm1(queries + F.dropout(own.out_proj(attended), dropout))
    attended, similarity = plain_attention(cross.q(queries), cross.k(tokens), cross.v(tokens), cross.num_heads, dropout)
    queries = layer.norm2(queries + F.dropout(cross.proj(attended), dropout))
    return layer.norm3(queries + F.dropout(layer.ffn(queries), dropout)), similarity


def plain_decode(head: ATMHead, features: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Class logits and masks at the maps' size, of every stage."""
    queries = head.class_queries.weight[None].repeat(len(features[0]), 1, 1)
    outputs: list[tuple[Tensor, Tensor]] = []
    for stage, feature in zip(head.stages, reversed(features), strict=True):
        B, _, h, w = feature.shape
        tokens = stage.norm(stage.proj(feature.flatten(2).permute(0, 2, 1)))
        for layer in stage.layers:
            queries, similarity = plain_layer(layer, queries, tokens)
        mask = similarity.mean(1).reshape(B, -1, h, w)
        if outputs:
            mask = mask + outputs[-1][1]
        outputs.append((head.class_embed(queries), mask))
    return outputs


def plain_fuse(logits: Tensor, masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Score map ``(B, N, H, W)`` from the upsampled masks of all queries."""
    full = F.interpolate(masks, size=size, mode='bilinear', align_corners=False)
    return torch.einsum('bqc,bqhw->bchw', logits.softmax(-1)[..., :-1], full.sigmoid())


def plain_loss(head: ATMHead, features: Sequence[Tensor], label: Tensor, ignore_index: int = 255) -> dict[str, Tensor]:
    """Losses of a training step, ``label`` being ``(B, H, W)``."""
    outputs = plain_decode(head, features)
    num_classes = outputs[-1][0].shape[1]
    losses: dict[str, Tensor] = {}
    targets = []
    for image in label:
        classes = image.unique()
        classes = classes[classes != ignore_index]
        targets.append((classes, (image[None] == classes[:, None, None]).to(outputs[-1][1].dtype)))
    num_masks = max(sum(len(classes) for classes, _ in targets), 1)
    class_weight = torch.ones(num_classes + 1)
    class_weight[-1] = 0.1
    for index, (logits, masks) in enumerate(outputs):
        suffix = '' if index == len(outputs) - 1 else f'_{index}'
        wanted = torch.full(logits.shape[:2], num_classes)
        for row, (classes, _) in zip(wanted, targets, strict=True):
            row[classes] = classes
        losses[f'loss_ce{suffix}'] = F.cross_entropy(
            logits.transpose(1, 2), wanted.to(logits.device), class_weight.to(logits)
        )
        full = F.interpolate(masks, size=label.shape[-2:], mode='bilinear', align_corners=False)
        matched = torch.cat([image[classes] for image, (classes, _) in zip(full, targets, strict=True)]).flatten(1)
        truth = torch.cat([mask for _, mask in targets]).flatten(1)
        probability = matched.sigmoid()
        entropy = F.binary_cross_entropy_with_logits(matched, truth, reduction='none')
        of_truth = probability * truth + (1 - probability) * (1 - truth)
        alpha = 0.25 * truth + 0.75 * (1 - truth)
        focal = (alpha * (1 - of_truth) ** 2 * entropy).mean(1)
        overlap = (probability * truth).sum(1)
        dice = 1 - (2 * overlap + 1) / (probability.sum(1) + truth.sum(1) + 1)
        losses[f'loss_mask{suffix}'] = 20 * focal.sum() / num_masks
        losses[f'loss_dice{suffix}'] = dice.sum() / num_masks
    prediction = plain_fuse(*outputs[-1], tuple(label.shape[-2:])).argmax(1)
    valid = label != ignore_index
    losses['acc_seg'] = 100.0 * (prediction.eq(label) & valid).sum() / valid.sum().clamp(min=1)
    return losses
