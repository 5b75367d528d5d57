import pytest
import torch
import torch.nn.functional as F

from mmvit_ext.models.layers.superpixel import pixel_superpixel_similarity, pixel_to_superpixel, superpixel_to_pixel
from mmvit_ext.models.layers.superpixel_attention import SCAIteration
from mmvit_ext.models.layers.superpixel_cpu import add_lifted, applies_to, gather

INF = float('inf')
GRIDS = [(1, 1), (1, 3), (5, 1), (2, 3)]


def make(grid, cell, heads=2, d=3, batch=2, with_keys=True):
    torch.manual_seed(0)
    size = (grid[0] * cell[0], grid[1] * cell[1])
    pixels = torch.randn(batch, heads * d, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(heads * d, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(heads * d, dtype=torch.float64, requires_grad=True)
    queries = torch.randn(batch, heads, d, *grid, dtype=torch.float64, requires_grad=True)
    keys = torch.randn(batch, heads, d, *grid, dtype=torch.float64, requires_grad=True) if with_keys else None
    return pixels, weight, bias, queries, keys


def plain_gather(pixels, weight, bias, queries, keys):
    """The same from the operations that work on whole batches."""
    x = pixels + F.conv2d(pixels, weight, bias, padding=1, groups=len(weight))
    x = x.unflatten(1, queries.shape[1:3])
    similarity = pixel_superpixel_similarity(x, queries)
    pooled = pixel_to_superpixel(similarity, x)
    association = None if keys is None else pixel_superpixel_similarity(x, keys).softmax(2)
    return similarity, pooled, association, pixels


def weighted(outputs):
    """A loss in which every element of every output has a weight of its own."""
    total = 0
    for index, out in enumerate(outputs):
        if out is not None:
            weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(index), dtype=out.dtype)
            total = total + (out.masked_fill(out == -INF, 0) * weight).sum()
    return total


@pytest.mark.parametrize('grid', GRIDS, ids=str)
@pytest.mark.parametrize('cell', [(4, 4), (1, 1), (2, 3)], ids=str)
@pytest.mark.parametrize('with_keys', [True, False])
def test_gathering_image_by_image_equals_the_operations_on_the_batch(grid, cell, with_keys):
    inputs = make(grid, cell, with_keys=with_keys)
    needed = [x for x in inputs if x is not None]
    ours, plain = gather(*inputs), plain_gather(*inputs)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(
        torch.autograd.grad(weighted(ours), needed), torch.autograd.grad(weighted(plain), needed), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('grid', GRIDS, ids=str)
def test_adding_lifted_features_image_by_image_equals_the_operations_on_the_batch(grid):
    pixels, *_ = make(grid, (2, 3))
    superpixels = torch.randn(2, 6, *grid, dtype=torch.float64, requires_grad=True)
    association = torch.rand(2, 2, 9, *pixels.shape[2:], dtype=torch.float64, requires_grad=True)
    inputs = (pixels, superpixels, association)
    ours, plain = add_lifted(*inputs), pixels + superpixel_to_pixel(superpixels, association)
    torch.testing.assert_close(ours, plain)
    for a, b in zip(
        torch.autograd.grad(weighted([ours]), inputs), torch.autograd.grad(weighted([plain]), inputs), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_gradients_are_those_of_finite_differences():
    inputs = make((1, 2), (2, 1), heads=1, d=2, batch=1)
    assert torch.autograd.gradcheck(lambda *x: gather(*x)[1:], inputs)
    association = torch.rand(1, 1, 9, 2, 2, dtype=torch.float64, requires_grad=True)
    superpixels = torch.randn(1, 2, 1, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(add_lifted, (inputs[0], superpixels, association))


def test_inputs_are_left_as_they_are_and_their_memory_layout_does_not_matter():
    pixels, *others = make((2, 3), (2, 2))
    expected = gather(pixels, *others)
    last = pixels.detach().clone(memory_format=torch.channels_last).requires_grad_()
    before = [x.detach().clone() for x in (last, *others)]
    outputs = gather(last, *others)
    for a, b in zip(outputs, expected, strict=True):
        torch.testing.assert_close(a, b)
    weighted(outputs).backward()
    assert all(torch.equal(x, y) for x, y in zip((last, *others), before, strict=True))
    torch.testing.assert_close(torch.autograd.grad(weighted(expected), pixels)[0], last.grad)


@pytest.mark.parametrize('used', [(0,), (1,), (2,), (3,), (0, 2), (1, 3)], ids=str)
def test_outputs_that_nobody_reads_need_no_gradient(used):
    inputs = make((2, 3), (2, 2))
    results = []
    for run in (gather, plain_gather):
        outputs = run(*inputs)
        loss = weighted([out if index in used else None for index, out in enumerate(outputs)])
        results.append(torch.autograd.grad(loss, inputs, allow_unused=True))
    for a, b, x in zip(*results, inputs, strict=True):
        torch.testing.assert_close(torch.zeros_like(x) if a is None else a, torch.zeros_like(x) if b is None else b)


def saved_bytes(run):
    """Bytes of the distinct tensors that a call keeps for the backward pass."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    assert result is not None
    return sum(kept.values())


@pytest.mark.parametrize(('route', 'limit'), [('image by image', 1.5), ('batch', 4.5)])
def test_an_iteration_keeps_no_nine_copies_of_the_pixels(route, limit, monkeypatch):
    """In units of the pixel map; the nine shifted copies of keys and values alone would be 18."""
    module = SCAIteration(
        192,
        1,
        pixel_qkv='identity',
        positions='cpe',
        grids=((1, 1), (1, 1)),
        norm_cfg={'type': 'LN'},
        layer_scale_init=1e-5,
        update_pixels=True,
    )
    if route == 'batch':
        monkeypatch.setattr('mmvit_ext.models.layers.superpixel_attention.applies_to', lambda pixels: False)
        monkeypatch.setattr('mmvit_ext.models.layers.superpixel_cpu.applies_to', lambda pixels: False)
    pixels, superpixels = torch.randn(2, 192, 28, 44, requires_grad=True), torch.randn(2, 192, 7, 11)
    size = pixels.numel() * 4
    others = saved_bytes(lambda: module.superpixel_qkv(module.superpixel_position(superpixels)))
    kept = (saved_bytes(lambda: module(pixels, superpixels)) - others) / size
    assert kept < limit


def test_the_route_is_for_plain_floats_on_a_cpu_only():
    pixels = torch.zeros(1, 2, 4, 4)
    assert applies_to(pixels)
    assert applies_to(pixels.double())
    assert not applies_to(pixels.bfloat16())
    assert not applies_to(pixels.to('meta'))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert not applies_to(pixels)
