"""Kernels in Triton's interpreter against their plain forms; run by ``test_kernels.py`` in a process of its own."""
# ruff: noqa: E402

import sys

for library in ('mmseg', 'mmdet', 'mmpretrain'):
    sys.modules[library] = None  # not needed, and their import takes longer than all that is computed here

import torch
import torch.nn.functional as F

from mmvit_ext.models.kernels.cells import fused_cells, plain_cells
from mmvit_ext.models.kernels.mask_losses import fused_mask_losses
from mmvit_ext.models.kernels.words import fused_layer, plain_layer
from mmvit_ext.models.layers.masks import mask_losses


def equal(fused, plain, tensors, arguments, loss):
    """Values, and gradients by all tensors."""
    results = []
    for function in (fused, plain):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        out = function(*arguments(leaves))
        loss(out).backward()
        results.append((out if isinstance(out, tuple) else (out,), [leaf.grad for leaf in leaves]))
    for ours, wanted in zip(*results, strict=True):
        for a, b in zip(ours, wanted, strict=True):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def masks():
    label = torch.randint(0, 3, (2, 35, 41))
    label[0, :5] = 255
    index, classes = torch.tensor([0, 0, 1]), torch.tensor([0, 2, 1])
    for ignore, weights in ((None, None), (255, torch.tensor([1.0, 0.0, 0.5]))):
        equal(
            fused_mask_losses,
            mask_losses,
            [torch.randn(2, 3, 5, 7)],
            lambda leaves, i=ignore, w=weights: (*leaves, label, index, classes, i, w),
            lambda out: (out[0] * torch.tensor([1.0, 2.0])).sum() + (out[1] * torch.tensor([3.0, 0.5])).sum(),
        )


def words():
    c, r = 6, 10
    shapes = [(3, 5, c), (c,), (c,), (3 * c, c), (3 * c,), (c, c), (c,), (c,), (c,), (r, c), (r,), (c, r), (c,)]
    target = torch.randn(3, 5, c)
    equal(
        fused_layer,
        plain_layer,
        [torch.randn(shape) for shape in shapes],
        lambda leaves: (leaves[0], 2, (1e-5, 1e-6), *leaves[1:]),
        lambda out: F.mse_loss(out, target),
    )


def cells():
    B, sh, sw, heads, d, cell = 2, 2, 3, 2, 5, (2, 3)
    shapes = [(B, sh, sw, heads, 6, d), (B, sh, sw, heads, 6, d), (B, heads, d, sh, sw)]
    equal(
        fused_cells,
        plain_cells,
        [torch.randn(shape) for shape in shapes],
        lambda leaves: (*leaves, cell),
        lambda out: out[0].masked_fill(out[0] == float('-inf'), 0).square().sum() + out[1].square().sum(),
    )


if __name__ == '__main__':
    torch.manual_seed(0)
    for check in (masks, words, cells):
        check()
        print(f'{check.__name__} equal')
