"""The inverted bottleneck in pieces against the one written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmvit_ext.models.layers import inverted_residual as module
from mmvit_ext.models.layers.inverted_residual import inverted_residual, pieces, plain_inverted_residual

ACTIVATIONS = {'HSwish': F.hardswish, 'GELU': F.gelu, 'SiLU': F.silu}
ONE_ROW, TWO_ROWS, TWO_IMAGES, EVERYTHING = 1, 13 * 10 * 4 * 2, 13 * 10 * 4 * 7 * 2, 2**30


def parameters(channels=5, inner=10, out=3, dtype=torch.float32):
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(channels, inner, 1),
        nn.Conv2d(inner, inner, 3, padding=1, groups=inner),
        nn.Conv2d(inner, out, 1),
    ]
    for parameter in (parameter for layer in layers for parameter in layer.parameters()):
        nn.init.normal_(parameter)
    return [layer.to(dtype) for layer in layers]


def image(dtype=torch.float32):
    return torch.randn(3, 5, 7, 13, generator=torch.Generator().manual_seed(1), dtype=dtype).requires_grad_()


@pytest.fixture(params=[ONE_ROW, TWO_ROWS, TWO_IMAGES, EVERYTHING], ids=['rows', 'strips', 'images', 'whole'])
def piece_bytes(request, monkeypatch):
    monkeypatch.setattr(module, 'PIECE_BYTES', request.param)
    return request.param


@pytest.mark.parametrize(
    ('size', 'expected'),
    [
        (ONE_ROW, [(image, row, row + 1) for image in range(3) for row in range(7)]),
        (TWO_ROWS, [(image, row, min(row + 2, 7)) for image in range(3) for row in (0, 2, 4, 6)]),
        (TWO_IMAGES, [(0, 0, 7), (2, 0, 7)]),
        (EVERYTHING, [(0, 0, 7)]),
    ],
)
def test_pieces_hold_what_the_limit_allows(size, expected, monkeypatch):
    monkeypatch.setattr(module, 'PIECE_BYTES', size)
    cut = pieces(image(), 10)
    assert [(piece.images.start, piece.start, piece.stop) for piece in cut] == expected
    assert all(piece.halo == slice(max(piece.start - 1, 0), min(piece.stop + 1, 7)) for piece in cut)


@pytest.mark.parametrize('act', ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_pieces_give_the_numbers_and_gradients_of_the_whole(act, piece_bytes):
    layers, x = parameters(), image()
    leaves = [x, *(parameter for layer in layers for parameter in layer.parameters())]
    outs = [compute(x, *layers, act) for compute in (inverted_residual, plain_inverted_residual)]
    torch.testing.assert_close(*outs, atol=1e-5, rtol=1e-5)
    weights = torch.randn(outs[0].shape, generator=torch.Generator().manual_seed(2))
    ours, plain = (torch.autograd.grad((out * weights).sum(), leaves) for out in outs)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_gradients_agree_with_finite_differences(piece_bytes):
    layers, x = parameters(dtype=torch.float64), image(torch.float64)
    names = [f'{index}.{name}' for index in range(3) for name in ('weight', 'bias')]
    network = nn.Sequential(*layers)
    network.forward = lambda x: inverted_residual(x, *layers, F.silu)

    def run(x, *parameters):
        return torch.func.functional_call(network, dict(zip(names, parameters, strict=True)), (x,))

    leaves = (x[:1, :, :4, :3].detach().requires_grad_(), *network.parameters())
    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)


def test_a_box_filter_sums_the_neighbours_inside_the_image(piece_bytes):
    layers, x = parameters(1, 1, 1), torch.ones(1, 1, 7, 13)
    for layer in layers:
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
    out = inverted_residual(x, *layers, F.relu)
    expected = torch.full((7, 13), 9.0)
    expected[[0, -1]] = 6
    expected[:, [0, -1]] = 6
    expected[[0, 0, -1, -1], [0, -1, 0, -1]] = 4
    assert torch.equal(out[0, 0], expected)


def test_mirrored_images_give_mirrored_maps(piece_bytes):
    layers, x = parameters(), image()
    layers[1].weight.data += layers[1].weight.data.flip(2)
    out = inverted_residual(x, *layers, F.hardswish)
    mirrored = inverted_residual(x.flip(2), *layers, F.hardswish)
    torch.testing.assert_close(mirrored, out.flip(2), atol=1e-5, rtol=1e-5)


def test_one_wide_map_is_kept_where_the_plain_form_keeps_four():
    layers, x = parameters(channels=5, inner=40), image()
    kept = {}
    for compute in (inverted_residual, plain_inverted_residual):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: (sizes.append(t.numel()), t)[1], lambda t: t
        ):
            compute(x, *layers, F.hardswish)
        kept[compute] = sum(size >= 3 * 40 * 7 * 13 for size in sizes)
    assert kept == {inverted_residual: 1, plain_inverted_residual: 4}


def test_autocast_is_as_exact_as_for_the_plain_form_and_keeps_gradients_in_float32():
    layers, x = parameters(), image()
    leaves = (x, layers[0].weight)
    exact = torch.autograd.grad(plain_inverted_residual(x, *layers, F.hardswish).sum(), leaves)
    errors = []
    for compute in (inverted_residual, plain_inverted_residual):
        with torch.autocast('cpu', dtype=torch.bfloat16):
            out = compute(x, *layers, F.hardswish)
        rough = torch.autograd.grad(out.float().sum(), leaves)
        assert out.dtype == torch.bfloat16
        assert all(gradient.dtype == torch.float32 for gradient in rough)
        errors.append([torch.norm(a - b) for a, b in zip(exact, rough, strict=True)])
    assert all(ours < 1.2 * plain for ours, plain in zip(*errors, strict=True)), errors


def test_nothing_is_kept_without_gradients():
    layers = [layer.requires_grad_(False) for layer in parameters()]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda t: t):
        out = inverted_residual(image().detach(), *layers, nn.Hardswish())
    assert not kept
    assert not out.requires_grad
