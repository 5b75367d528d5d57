r"""Masks at the decoder's resolution, used at the image's resolution, without an image-sized copy of each mask.

Bilinear upsampling is linear and separable, so a mask of size ``h x w`` becomes ``U_h m U_w^T`` with two small
matrices, in pieces that fit a cache: a few rows of all masks (:func:`fuse_masks`), or a few masks at a time
(:func:`mask_losses`).

Shapes: B images, Q queries, K classes, S stages, M matched masks, (h, w) mask size, (H, W) label or image size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmvit_ext.models.kernels import may_fuse
from mmvit_ext.models.layers.open_sizes import is_traced

__all__ = ['bilinear_matrix', 'fuse_masks', 'fused_accuracy', 'mask_losses']

FOCAL_ALPHA = 0.25  # weight of positive pixels in the focal loss (arXiv 1708.02002, section 3.2)
ACCURACY_POINTS = 128  # rows or columns of a label, above which the accuracy is estimated on a regular grid
CHUNK = {'cpu': 2**18}  # elements of an upsampled piece: about a core's cache; elsewhere 2**25, a few gigabytes in all


def bilinear_matrix(source: int, target: int, like: Tensor) -> Tensor:
    """Matrix ``(target, source)`` of the linear ``F.interpolate(align_corners=False)`` in one dimension."""
    identity = torch.eye(source, dtype=like.dtype, device=like.device)
    return F.interpolate(identity[None], size=target, mode='linear', align_corners=False)[0].T.contiguous()


def fuse_masks(probabilities: Tensor, masks: Tensor, size: tuple[int, int]) -> Tensor:
    r"""Class score of every pixel from query-wise class probabilities and masks (arXiv 2210.05844, section 3.2).

    .. math:: \mathrm{score}[c] = \sum_q p[q, c] \cdot \sigma(\mathrm{upsample}(m))[q]

    Probabilities ``(B, Q, K)`` and mask logits ``(B, Q, h, w)`` give ``(B, K, H, W)``, between 0 and Q, without
    gradients in row strips and with the classes last in memory.
    """
    H, W = size
    B, Q, h, w = masks.shape
    if torch.is_grad_enabled() or is_traced():  # strips would unroll
        full = F.interpolate(masks, size=size, mode='bilinear', align_corners=False).sigmoid()
        return torch.matmul(probabilities.transpose(1, 2).to(full.dtype), full.flatten(2)).unflatten(2, size)
    rows, columns = bilinear_matrix(h, H, masks), bilinear_matrix(w, W, masks)
    # Queries last in memory: upsampling rows and mixing queries are then plain matrix products on whole strips.
    wide = torch.matmul(columns, masks.permute(0, 2, 3, 1))  # (B, h, W, Q)
    weights = probabilities.transpose(1, 2).to(masks.dtype)  # (B, K, Q)
    out = masks.new_empty(B, H, W, weights.shape[1])
    step = min(H, max(1, 4 * chunk_elements(masks) // (Q * W)))
    for start in range(0, H, step):
        stop = min(start + step, H)
        # Rows of the masks that these output rows lie between.
        first, last = max(0, int((start + 0.5) * h / H - 0.5)), min(h, int((stop - 0.5) * h / H - 0.5) + 2)
        strip = rows[start:stop, first:last]
        for image in range(B):
            piece = torch.mm(strip, wide[image, first:last].flatten(1)).sigmoid_()  # (r, W Q)
            out[image, start:stop] = F.linear(piece.view(stop - start, W, Q), weights[image])
    return out.permute(0, 3, 1, 2)


def fused_accuracy(probabilities: Tensor, masks: Tensor, label: Tensor, ignore_index: int) -> Tensor:
    """Share in per cent of labelled pixels whose highest fused score is their class; 0 when none is labelled."""
    (B, Q), (H, W) = masks.shape[:2], label.shape[-2:]
    step_h, step_w = -(-H // ACCURACY_POINTS), -(-W // ACCURACY_POINTS)
    rows = bilinear_matrix(masks.shape[2], H, masks)[step_h // 2 :: step_h]
    columns = bilinear_matrix(masks.shape[3], W, masks)[step_w // 2 :: step_w]
    label = label[:, step_h // 2 :: step_h, step_w // 2 :: step_w].flatten(1)
    weights = probabilities.transpose(1, 2).to(masks.dtype)  # (B, K, Q)
    group, predictions = max(1, chunk_elements(masks) // (Q * label.shape[1])), []
    for start in range(0, B, group):
        images = slice(start, start + group)
        points = torch.matmul(torch.matmul(rows, masks[images]), columns.T).sigmoid_().flatten(2)  # (b, Q, points)
        predictions.append(torch.bmm(weights[images], points).argmax(1))
    correct = torch.cat(predictions).eq(label) & (valid := label != ignore_index)
    return 100.0 * correct.sum() / valid.sum().clamp(min=1)


def chunk_elements(like: Tensor) -> int:
    """Elements of an upsampled piece on a tensor's device."""
    return CHUNK.get(like.device.type, 2**25)


def mask_losses(
    masks: Tensor,
    label: Tensor,
    image_index: Tensor,
    class_index: Tensor,
    ignore_index: int | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Focal and dice loss of matched masks against one class of a label map each.

    With upsampled mask :math:`z`, :math:`p = \sigma(z)` and target :math:`t`, per mask

    .. math::
        \mathrm{focal} = \operatorname{mean}\big(-\alpha_t (1 - p_t)^2 \log p_t\big), \qquad
        \mathrm{dice} = 1 - \frac{2 \sum p t + 1}{\sum p + \sum t + 1}

    ``masks`` are the logits ``(S, M, h, w)``; a mask's target is where the label ``(B, H, W)`` of its image, by
    ``image_index``, has its class. Pixels of ``ignore_index`` are left out; None keeps them, as negatives. Both losses
    ``(S,)`` are sums over the masks, with ``weights`` ``(M,)`` weighted ones. Value and gradient come from the same
    pass over the upsampled masks.
    """
    if not is_traced() and may_fuse(masks) and masks.dtype == torch.float32:
        from mmvit_ext.models.kernels.mask_losses import fused_mask_losses

        return fused_mask_losses(masks, label, image_index, class_index, ignore_index, weights)
    with_grad = masks.requires_grad and torch.is_grad_enabled()
    return _MaskLosses.apply(masks, label, image_index, class_index, ignore_index, weights, with_grad)[:2]


class _MaskLosses(torch.autograd.Function):
    """Both losses and, for the backward pass alone, their gradients by the masks."""

    @staticmethod
    def forward(
        masks: Tensor,
        label: Tensor,
        image_index: Tensor,
        class_index: Tensor,
        ignore_index: int | None,
        weights: Tensor | None,
        with_grad: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        S, M, h, w = masks.shape
        H, W = label.shape[-2:]
        rows, columns = bilinear_matrix(h, H, masks), bilinear_matrix(w, W, masks)
        focal, dice = masks.new_zeros(S, M), masks.new_zeros(S, M)
        grads = masks.new_empty(2, *masks.shape if with_grad else (0,))
        group = max(1, chunk_elements(masks) // (H * W))
        stages = max(1, group // max(M, 1))
        for start in range(0, M, group):
            part = slice(start, start + group)
            labels = label[image_index[part]]  # (m, H, W)
            inside = labels.eq(class_index[part, None, None])
            target = inside.to(masks.dtype)
            keep = None if ignore_index is None else labels.ne(ignore_index).to(masks.dtype)
            area = target.sum((1, 2))
            pixels = torch.full_like(area, H * W) if keep is None else keep.sum((1, 2)).clamp_(min=1)
            sign = torch.rsub(target, 1, alpha=2)  # of the logit: +1 on negatives, -1 on positives
            alpha = torch.where(inside, FOCAL_ALPHA, 1 - FOCAL_ALPHA).to(masks.dtype).div_(pixels[:, None, None])
            for first in range(0, S, stages):
                those = slice(first, first + stages)
                logits = torch.matmul(torch.matmul(rows, masks[those, part]), columns.T).mul_(sign)  # (s, m, H, W)
                error = logits.sigmoid()  # 1 - p_t
                if keep is not None:
                    error.mul_(keep)
                entropy = F.softplus(logits)  # -log p_t
                weight = error.square().mul_(alpha)
                focal[those, part] = torch.einsum('smhw,smhw->sm', weight, entropy)
                missed = torch.einsum('smhw,mhw->sm', error, target)  # sum of (1 - p) t
                hits = area - missed
                union = error.sum((2, 3)) - missed + hits + area + 1
                overlap = 2 * hits + 1
                dice[those, part] = 1 - overlap / union
                if with_grad:
                    slope = torch.rsub(error, 1)
                    focal_grad = entropy.mul_(slope).mul_(2).add_(error).mul_(weight).mul_(sign)
                    slope.mul_(error)  # derivative of p by its logit
                    hit_factor, area_factor = 2 / union, overlap / union.square()
                    dice_grad = (area_factor[..., None, None] - hit_factor[..., None, None] * target).mul_(slope)
                    for kind, grad in enumerate((focal_grad, dice_grad)):
                        grads[kind, those, part] = torch.matmul(rows.T, torch.matmul(grad, columns))
        if weights is not None:
            focal, dice = focal * weights, dice * weights
            grads = grads.mul_(weights[:, None, None]) if with_grad else grads
        return focal.sum(1), dice.sum(1), grads

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(output[2])
        ctx.save_for_backward(inputs[0], output[2])

    @staticmethod
    def backward(ctx: Any, grad_focal: Tensor, grad_dice: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        masks, grads = ctx.saved_tensors
        return _MaskGradients.apply(masks, grads, grad_focal, grad_dice), None, None, None, None, None, None


class _MaskGradients(torch.autograd.Function):
    """Gradient of the masks; a function of its own, so that a second derivative is refused instead of taken for 0."""

    @staticmethod
    def forward(masks: Tensor, grads: Tensor, grad_focal: Tensor, grad_dice: Tensor) -> Tensor:
        return grads[0] * grad_focal[:, None, None, None] + grads[1] * grad_dice[:, None, None, None]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise NotImplementedError('The losses of matched masks are differentiable once only.')
