import pytest
import torch
import torch.nn.functional as F

from mmvit_ext.models.superpixels.grid import (
    cell_similarity,
    cell_size,
    neighbour_sum,
    neighbours,
    pool_cells,
    superpixel_to_pixel,
    to_cells,
    upsample_similarity,
)

GRIDS = [(1, 1), (1, 5), (7, 1), (2, 3), (5, 7), (3, 3)]
CELLS = [(4, 4), (1, 1), (2, 3)]
INF = float('inf')
grids = pytest.mark.parametrize('grid', GRIDS, ids=str)
cells = pytest.mark.parametrize('cell', CELLS, ids=str)


def pixel_superpixel_similarity(pixels, superpixels):
    """Of maps ``(B, heads, d, h, w)`` and ``(B, heads, d, sh, sw)``."""
    grid = superpixels.shape[-2:]
    return cell_similarity(to_cells(pixels, grid), superpixels, cell_size(pixels.shape[-2:], grid))


def leading_infinities(x):
    return int((x == -INF).to(torch.uint8).cumprod(0).sum())


def pixel_to_superpixel(similarity, values, cell=None):
    """Of values ``(B, heads, d, h, w)``; without ``cell``, its size is read off the similarity's upper left."""
    if cell is None:
        cell = leading_infinities(similarity[0, 0, 1, :, 0]), leading_infinities(similarity[0, 0, 3, 0])
    cell = (cell, cell) if isinstance(cell, int) else cell
    grid = tuple(-(-edge // length) for edge, length in zip(values.shape[-2:], cell, strict=True))
    return pool_cells(similarity, to_cells(values, grid))


def cell_index(grid, cell):
    """Row and column of the cell of every pixel, ``(h*w,)`` each."""
    rows, columns = torch.meshgrid(torch.arange(grid[0] * cell[0]), torch.arange(grid[1] * cell[1]), indexing='ij')
    return rows.flatten() // cell[0], columns.flatten() // cell[1]


def dense_mask(grid, cell):
    """Whether pixel i and superpixel s are neighbours, ``(h*w, sh*sw)``."""
    rows, columns = cell_index(grid, cell)
    s_rows, s_columns = cell_index(grid, (1, 1))
    return ((rows[:, None] - s_rows).abs() <= 1) & ((columns[:, None] - s_columns).abs() <= 1)


def neighbour_index(grid, cell):
    """Superpixel that is neighbour n of pixel i, ``(9, h*w)``, -1 where there is none."""
    rows, columns = cell_index(grid, cell)
    found = []
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            y, x = rows + dy, columns + dx
            inside = (y >= 0) & (y < grid[0]) & (x >= 0) & (x < grid[1])
            found.append(torch.where(inside, y * grid[1] + x, -1))
    return torch.stack(found)


def dense_similarity(pixels, superpixels):
    """``(B, heads, h*w, sh*sw)`` with -inf outside the neighbourhood."""
    grid = superpixels.shape[-2:]
    cell = (pixels.shape[-2] // grid[0], pixels.shape[-1] // grid[1])
    products = pixels.flatten(3).transpose(2, 3) @ superpixels.flatten(3) / pixels.shape[2] ** 0.5
    return products.masked_fill(~dense_mask(grid, cell), -INF)


def to_neighbours(dense, grid, cell):
    """``(B, heads, h*w, sh*sw)`` to ``(B, heads, 9, h, w)``, -inf where there is no neighbour."""
    index = neighbour_index(grid, cell)
    taken = dense.gather(3, index.clamp(min=0).T.expand(*dense.shape[:2], -1, -1))
    taken = taken.masked_fill(index.T < 0, -INF).transpose(2, 3)
    return taken.unflatten(3, (grid[0] * cell[0], grid[1] * cell[1]))


def make(grid, cell, heads=2, d=5, batch=2, dtype=torch.float64):
    torch.manual_seed(0)
    size = (grid[0] * cell[0], grid[1] * cell[1])
    pixels, values = (torch.randn(batch, heads, d, *size, dtype=dtype, requires_grad=True) for _ in range(2))
    superpixels, features = (torch.randn(batch, heads, d, *grid, dtype=dtype, requires_grad=True) for _ in range(2))
    return pixels, values, superpixels, features


def assert_same(ours, theirs, inputs, **tolerance):
    torch.testing.assert_close(ours, theirs, **tolerance)
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(3), dtype=ours.dtype)
    grads = [torch.autograd.grad((out * weight).sum(), inputs, retain_graph=True) for out in (ours, theirs)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


@grids
@cells
def test_similarity_equals_dense_products_forward_and_backward(grid, cell):
    pixels, _, superpixels, _ = make(grid, cell, dtype=torch.float32)
    ours = pixel_superpixel_similarity(pixels, superpixels)
    theirs = to_neighbours(dense_similarity(pixels, superpixels), grid, cell)
    assert torch.equal(ours == -INF, theirs == -INF)
    assert_same(
        ours.masked_fill(ours == -INF, 0),
        theirs.masked_fill(theirs == -INF, 0),
        (pixels, superpixels),
        atol=1e-5,
        rtol=1e-5,
    )


@grids
@cells
def test_superpixels_attend_to_their_windows_as_masked_dense_attention_does(grid, cell):
    pixels, values, superpixels, _ = make(grid, cell, dtype=torch.float32)
    ours = pixel_to_superpixel(pixel_superpixel_similarity(pixels, superpixels), values)
    weights = dense_similarity(pixels, superpixels).softmax(2)  # over the pixels
    theirs = (values.flatten(3) @ weights).unflatten(3, grid)
    assert_same(ours, theirs, (pixels, superpixels, values), atol=1e-5, rtol=1e-5)


@grids
@cells
def test_pixels_attend_to_their_neighbours_as_masked_dense_attention_does(grid, cell):
    pixels, _, superpixels, features = make(grid, cell, dtype=torch.float32)
    association = pixel_superpixel_similarity(pixels, superpixels).softmax(2)
    ours = superpixel_to_pixel(features.flatten(1, 2), association)
    weights = dense_similarity(pixels, superpixels).softmax(3)  # over the superpixels
    theirs = (features.flatten(3) @ weights.transpose(2, 3)).flatten(1, 2).unflatten(2, pixels.shape[-2:])
    assert_same(ours, theirs, (pixels, superpixels, features), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('grid', [(1, 1), (1, 3), (2, 3)], ids=str)
def test_gradients_are_those_of_finite_differences_twice(grid):
    pixels, values, superpixels, features = make(grid, (2, 1), heads=1, d=2, batch=1)

    def everything(pixels, values, superpixels, features):
        similarity = pixel_superpixel_similarity(pixels, superpixels)
        pooled = pixel_to_superpixel(similarity, values, cell=(2, 1))
        return pooled, superpixel_to_pixel(features.flatten(1, 2), similarity.softmax(2))

    assert torch.autograd.gradcheck(everything, (pixels, values, superpixels, features))
    assert torch.autograd.gradgradcheck(everything, (pixels, values, superpixels, features))


def test_a_row_of_two_cells_worked_out_by_hand():
    # Cells of 1x2 pixels; the keys are 0 but for the last pixel's, so its weight in every window is e / (3 + e).
    pixels = torch.tensor([0.0, 0.0, 0.0, 1.0]).view(1, 1, 1, 1, 4)
    superpixels = torch.ones(1, 1, 1, 1, 2)
    similarity = pixel_superpixel_similarity(pixels, superpixels)
    own = similarity[0, 0, 4, 0]
    assert own.tolist() == [0, 0, 0, 1]
    assert similarity[0, 0, 3, 0].tolist() == [-INF, -INF, 0, 1]  # left neighbour
    assert similarity[0, 0, 5, 0].tolist() == [0, 0, -INF, -INF]  # right neighbour
    assert (similarity[0, 0, [0, 1, 2, 6, 7, 8]] == -INF).all()
    values = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 1, 4)
    e = torch.e
    expected = (1 + 2 + 3 + 4 * e) / (3 + e)
    torch.testing.assert_close(pixel_to_superpixel(similarity, values), torch.full((1, 1, 1, 1, 2), expected))
    spread = superpixel_to_pixel(torch.tensor([[[[10.0, 20.0]]]]), similarity.softmax(2))
    torch.testing.assert_close(spread.flatten(), torch.full((4,), 15.0))  # equal similarities: the mean of both


@pytest.mark.parametrize('dims', [(-1,), (-2,), (-2, -1)], ids=str)
def test_mirrored_inputs_give_mirrored_outputs(dims):
    pixels, values, superpixels, features = make((3, 5), (2, 3))
    similarity = pixel_superpixel_similarity(pixels, superpixels)
    mirrored = pixel_superpixel_similarity(pixels.flip(dims), superpixels.flip(dims))
    swapped = similarity.unflatten(2, (3, 3)).flip([{-1: 3, -2: 2}[dim] for dim in dims]).flatten(2, 3).flip(dims)
    torch.testing.assert_close(mirrored, swapped)
    torch.testing.assert_close(
        pixel_to_superpixel(mirrored, values.flip(dims)), pixel_to_superpixel(similarity, values).flip(dims)
    )
    torch.testing.assert_close(
        superpixel_to_pixel(features.flip(dims).flatten(1, 2), mirrored.softmax(2)),
        superpixel_to_pixel(features.flatten(1, 2), similarity.softmax(2)).flip(dims),
    )


def test_equal_features_come_back_unchanged():
    pixels, _, superpixels, _ = make((3, 4), (2, 2))
    similarity = pixel_superpixel_similarity(pixels, superpixels)
    constant = torch.arange(10.0, dtype=torch.float64).view(1, 10, 1, 1).expand(2, 10, 3, 4)
    torch.testing.assert_close(
        superpixel_to_pixel(constant, similarity.softmax(2)), constant[..., :1, :1].expand(2, 10, 6, 8)
    )
    values = constant.unflatten(1, (2, 5))[..., :1, :1].expand(2, 2, 5, 6, 8)
    torch.testing.assert_close(pixel_to_superpixel(similarity, values), values[..., :3, :4])


def test_summed_heads_are_the_similarity_of_one_wide_head():
    pixels, _, superpixels, _ = make((2, 3), (2, 2), heads=3, d=4)
    narrow = pixel_superpixel_similarity(pixels, superpixels).sum(1, keepdim=True) / 3**0.5
    wide = pixel_superpixel_similarity(pixels.flatten(1, 2)[:, None], superpixels.flatten(1, 2)[:, None])
    torch.testing.assert_close(narrow, wide)


def test_the_memory_layout_of_the_inputs_does_not_matter():
    pixels, values, superpixels, _ = make((3, 5), (4, 4))
    expected = pixel_to_superpixel(pixel_superpixel_similarity(pixels, superpixels), values)

    def channels_last(x):
        return x.flatten(1, 2).contiguous(memory_format=torch.channels_last).unflatten(1, (2, 5))

    similarity = pixel_superpixel_similarity(channels_last(pixels), channels_last(superpixels))
    torch.testing.assert_close(pixel_to_superpixel(similarity, channels_last(values)), expected)


def test_unfolding_and_its_transpose_are_adjoint():
    torch.manual_seed(0)
    x, y = torch.randn(2, 3, 5, 2, 4, dtype=torch.float64), torch.randn(2, 3, 5, 2, 9, 4, dtype=torch.float64)
    torch.testing.assert_close((neighbours(x) * y).sum(), (x * neighbour_sum(y)).sum())


def test_large_similarities_neither_overflow_nor_become_nan():
    pixels, values, superpixels, _ = make((2, 3), (2, 2), dtype=torch.float32)
    similarity = pixel_superpixel_similarity(pixels * 300, superpixels * 300)
    pooled = pixel_to_superpixel(similarity, values)
    pooled.sum().backward()
    assert torch.isfinite(pooled).all()
    assert torch.isfinite(pixels.grad).all()


def test_a_window_that_is_masked_as_a_whole_gives_zeros_and_no_nan():
    pixels, values, superpixels, _ = make((1, 3), (2, 2))
    similarity = pixel_superpixel_similarity(pixels, superpixels)
    masked = similarity.masked_fill(torch.ones_like(similarity, dtype=torch.bool), -INF)
    pooled = pixel_to_superpixel(masked, values, cell=2)
    pooled.sum().backward()
    assert pooled.abs().sum() == 0
    assert torch.isfinite(values.grad).all()


def test_bfloat16_autocast_has_no_nan_and_stays_close():
    pixels, values, superpixels, features = make((3, 5), (4, 4), dtype=torch.float32)

    def run():
        similarity = pixel_superpixel_similarity(pixels, superpixels)
        pooled = pixel_to_superpixel(similarity, values)
        spread = superpixel_to_pixel(features.flatten(1, 2), similarity.softmax(2))
        grads = torch.autograd.grad(pooled.float().square().sum() + spread.float().square().sum(), pixels)
        return pooled, spread, *grads

    exact = run()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        rough = run()
    for a, b in zip(exact, rough, strict=True):
        assert torch.norm(a - b) < 0.02 * torch.norm(a)


def interpolate_slowly(similarity, grid, cell, factor):
    """Every fine pixel and neighbour on its own: bilinear over the coarse pixels that the superpixel's window has."""
    B, heads, _, h, w = similarity.shape
    out = similarity.new_full((B, heads, 9, h * factor, w * factor), -INF)
    for y in range(h * factor):
        for x in range(w * factor):
            for n in range(9):
                s = (y // (cell[0] * factor) + n // 3 - 1, x // (cell[1] * factor) + n % 3 - 1)
                if not (0 <= s[0] < grid[0] and 0 <= s[1] < grid[1]):
                    continue
                total, share = 0, 0
                for ay, by in taps(y, factor, (s[0] - 1) * cell[0], (s[0] + 2) * cell[0]):
                    for ax, bx in taps(x, factor, (s[1] - 1) * cell[1], (s[1] + 2) * cell[1]):
                        if 0 <= ay < h and 0 <= ax < w:
                            seen = 3 * (s[0] - ay // cell[0] + 1) + s[1] - ax // cell[1] + 1
                            total = total + by * bx * similarity[:, :, seen, ay, ax]
                            share += by * bx
                out[:, :, n, y, x] = total / share
    return out


def taps(fine, factor, start, stop):
    """Coarse samples and weights of linear interpolation with half-pixel centres, kept inside [start, stop)."""
    place = (fine + 0.5) / factor - 0.5
    low = int(place // 1)
    return [(min(max(i, start), stop - 1), weight) for i, weight in ((low, 1 - place + low), (low + 1, place - low))]


@pytest.mark.parametrize('grid', [(1, 1), (1, 3), (3, 2)], ids=str)
@pytest.mark.parametrize('factor', [1, 2, 3])
def test_upsampling_interpolates_inside_each_superpixels_window(grid, factor):
    pixels, _, superpixels, _ = make(grid, (2, 3), batch=1)
    similarity = pixel_superpixel_similarity(pixels, superpixels)
    fine = upsample_similarity(similarity, grid, factor)
    expected = interpolate_slowly(similarity, grid, (2, 3), factor)
    assert torch.equal(fine == -INF, expected == -INF)
    torch.testing.assert_close(fine.masked_fill(fine == -INF, 0), expected.masked_fill(expected == -INF, 0))
    fine.softmax(2).square().sum().backward()
    assert torch.isfinite(pixels.grad).all()


def test_upsampling_does_not_mix_superpixels():
    """A similarity that depends on the superpixel alone stays what it is; resizing the 9 channels would blur it."""
    values = torch.tensor([[1.0, 50.0, -7.0]])
    similarity = pixel_superpixel_similarity(torch.ones(1, 1, 1, 4, 12), values.view(1, 1, 1, 1, 3))
    fine = upsample_similarity(similarity, (1, 3), 2)
    assert torch.equal(fine, similarity.repeat_interleave(2, 3).repeat_interleave(2, 4))
    naive = F.interpolate(similarity[:, 0, 3:6].clamp(min=-100), scale_factor=2, mode='bilinear')
    assert not torch.allclose(naive, fine[:, 0, 3:6].clamp(min=-100))


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda p, s: pixel_superpixel_similarity(p, s[..., :2]), r'8x9 does not divide into 2x2'),
        (lambda p, s: pixel_superpixel_similarity(p[:, :1], s), r'must agree .*\(2, 2, 3, 1, 12, 5\)'),
        (lambda p, s: pixel_to_superpixel(p, p, cell=(4, 3)), 'must agree in B, heads, h and w'),
        (lambda p, s: pixel_to_superpixel(torch.zeros(2, 2, 9, 8, 9), p, cell=3), '8x9 does not divide into 3x3'),
        (lambda p, s: superpixel_to_pixel(s, p), r'expected superpixels \(B, C, sh, sw\)'),
        (lambda p, s: superpixel_to_pixel(s.flatten(1, 2), torch.zeros(2, 3, 9, 8, 9)), '3 heads must divide the 10'),
    ],
)
def test_shapes_that_do_not_go_together_are_named(call, message):
    pixels, superpixels = torch.zeros(2, 2, 5, 8, 9), torch.zeros(2, 2, 5, 2, 3)
    with pytest.raises(ValueError, match=message):
        call(pixels, superpixels)


@pytest.mark.skipif(torch.__version__.startswith('2.1.'), reason='its dynamo breaks the graph')
def test_a_compiled_graph_has_no_break_and_gives_the_same():
    pixels, values, superpixels, features = make((2, 3), (4, 4), dtype=torch.float32)

    def run(pixels, values, superpixels, features):
        similarity = pixel_superpixel_similarity(pixels, superpixels)
        pooled = pixel_to_superpixel(similarity, values, cell=4)
        return pooled.sum() + superpixel_to_pixel(features.flatten(1, 2), similarity.softmax(2)).square().sum()

    inputs = (pixels, values, superpixels, features)
    compiled = torch.compile(run, backend='aot_eager', fullgraph=True)
    expected, found = run(*inputs), compiled(*inputs)
    torch.testing.assert_close(found, expected)
    for a, b in zip(torch.autograd.grad(expected, inputs), torch.autograd.grad(found, inputs), strict=True):
        torch.testing.assert_close(a, b)
