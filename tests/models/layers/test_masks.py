import pytest
import torch
import torch.nn.functional as F

from mmvit_ext.models.layers import masks as module
from mmvit_ext.models.layers.masks import bilinear_matrix, fuse_masks, fused_accuracy, mask_losses


def upsample(masks, size):
    return F.interpolate(masks, size=size, mode='bilinear', align_corners=False)


def plain_losses(masks, label, image_index, class_index, ignore_index=None):
    """Mask by mask and pixel by pixel, as the formulas read; ``masks`` is (M, h, w)."""
    focal = dice = 0
    for mask, image, cls in zip(masks, image_index, class_index, strict=True):
        truth = label[image]
        z = upsample(mask[None, None], truth.shape)[0, 0]
        if ignore_index is not None:
            z, truth = z[truth != ignore_index], truth[truth != ignore_index]
        t, p = (truth == cls).to(z.dtype), z.sigmoid()
        p_t = t * p + (1 - t) * (1 - p)
        alpha = 0.25 * t + 0.75 * (1 - t)
        focal = focal + (-alpha * (1 - p_t) ** 2 * p_t.log()).sum() / max(z.numel(), 1)
        dice = dice + 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
    return focal, dice


@pytest.fixture
def case():
    torch.manual_seed(0)
    masks = torch.randn(2, 4, 5, 7, dtype=torch.float64)  # stages, masks, h, w
    label = torch.randint(0, 3, (2, 11, 13))
    label[0, :3] = 255
    return masks, label, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 2, 1, 2])


@pytest.mark.parametrize(('source', 'target'), [(2, 4), (5, 13), (13, 5), (1, 7), (7, 7)])
def test_interpolation_matrix_does_what_interpolate_does(source, target):
    x = torch.randn(1, 3, source, dtype=torch.float64)
    matrix = bilinear_matrix(source, target, x)
    torch.testing.assert_close(x @ matrix.T, F.interpolate(x, size=target, mode='linear', align_corners=False))
    torch.testing.assert_close(matrix.sum(1), torch.ones(target, dtype=torch.float64))


@pytest.mark.parametrize('ignore_index', [None, 255])
def test_mask_losses_equal_the_formulas(case, ignore_index):
    masks, label, image_index, class_index = case
    ours = mask_losses(masks, label, image_index, class_index, ignore_index)
    for stage in range(2):
        focal, dice = plain_losses(masks[stage], label, image_index, class_index, ignore_index)
        torch.testing.assert_close(ours[0][stage], focal)
        torch.testing.assert_close(ours[1][stage], dice)


@pytest.mark.parametrize('ignore_index', [None, 255])
def test_mask_losses_have_the_right_gradient(case, ignore_index):
    masks, label, image_index, class_index = case
    masks.requires_grad_()
    assert torch.autograd.gradcheck(lambda m: mask_losses(m, label, image_index, class_index, ignore_index), (masks,))


def test_functional_gradients_are_the_same_and_second_ones_are_refused(case):
    masks, label, image_index, class_index = case

    def total(masks):
        return sum(loss.sum() for loss in mask_losses(masks, label, image_index, class_index))

    gradient = torch.func.grad(total)(masks)
    leaf = masks.clone().requires_grad_()
    (expected,) = torch.autograd.grad(total(leaf), leaf, create_graph=True)
    torch.testing.assert_close(gradient, expected.detach())
    with pytest.raises(NotImplementedError, match='differentiable once only'):
        expected.sum().backward()
    with pytest.raises(NotImplementedError, match='differentiable once only'):
        torch.func.grad(lambda masks: torch.func.grad(total)(masks).sum())(masks)


def test_mask_losses_worked_out_by_hand():
    # One 1x2 mask of logits 0: p = 1/2 everywhere, left pixel in the class.
    label = torch.tensor([[[1, 0]]])
    focal, dice = mask_losses(torch.zeros(1, 1, 1, 2), label, torch.tensor([0]), torch.tensor([1]))
    assert focal.item() == pytest.approx(0.5 * (0.25 + 0.75) * 0.25 * 0.6931472)
    assert dice.item() == pytest.approx(1 - (2 * 0.5 + 1) / (1 + 1 + 1))


def test_extreme_logits_keep_losses_and_gradients_finite():
    masks = torch.tensor([1e4, -1e4]).view(1, 2, 1, 1).requires_grad_()
    label = torch.tensor([[[0, 1]]])
    losses = mask_losses(masks, label, torch.tensor([0, 0]), torch.tensor([0, 1]))
    sum(losses).sum().backward()
    assert torch.isfinite(torch.stack(losses)).all()
    assert torch.isfinite(masks.grad).all()


def test_no_matched_mask_gives_zero_with_a_gradient():
    masks = torch.zeros(2, 0, 3, 3, requires_grad=True)
    empty = torch.zeros(0, dtype=torch.long)
    focal, dice = mask_losses(masks, torch.full((1, 5, 5), 255), empty, empty)
    (focal + dice).sum().backward()
    assert focal.tolist() == dice.tolist() == [0, 0]


def test_the_size_of_a_piece_does_not_matter(case, monkeypatch):
    masks, label, image_index, class_index = case
    probabilities = torch.rand(2, 4, 3, dtype=torch.float64)
    maps = torch.randn(2, 4, 5, 7, dtype=torch.float64)
    results = []
    for elements in (1, 150, 2**20):
        monkeypatch.setattr(module, 'CHUNK', {'cpu': elements})
        with torch.no_grad():
            results.append(
                (*mask_losses(masks, label, image_index, class_index), fuse_masks(probabilities, maps, (11, 13)))
            )
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize('size', [(11, 13), (5, 7), (3, 2), (41, 67), (1, 1)], ids=str)
def test_fused_map_equals_mixing_upsampled_masks(size):
    torch.manual_seed(0)
    probabilities, masks = torch.rand(2, 4, 3), torch.randn(2, 4, 5, 7)
    expected = torch.einsum('bqk,bqhw->bkhw', probabilities, upsample(masks, size).sigmoid())
    with torch.no_grad():
        torch.testing.assert_close(fuse_masks(probabilities, masks, size), expected)
    masks.requires_grad_()
    torch.testing.assert_close(fuse_masks(probabilities, masks, size), expected)


def test_mirroring_the_masks_mirrors_the_fused_map():
    torch.manual_seed(0)
    probabilities, masks = torch.rand(1, 4, 3), torch.randn(1, 4, 5, 7)
    with torch.no_grad():
        plain, mirrored = (
            fuse_masks(probabilities, masks, (19, 23)),
            fuse_masks(probabilities, masks.flip(-1), (19, 23)),
        )
    torch.testing.assert_close(mirrored.flip(-1), plain)


def test_accuracy_equals_that_of_the_whole_map_and_leaves_ignored_pixels_out():
    torch.manual_seed(0)
    probabilities, masks, label = torch.rand(2, 3, 3), torch.randn(2, 3, 5, 7), torch.randint(0, 3, (2, 41, 37))
    label[:, :10] = 255
    best = fuse_masks(probabilities, masks, (41, 37)).argmax(1)
    valid = label != 255
    expected = 100 * (best == label)[valid].float().mean()
    torch.testing.assert_close(fused_accuracy(probabilities, masks, label, 255), expected)


def test_accuracy_of_a_large_label_is_that_of_a_regular_grid():
    torch.manual_seed(0)
    probabilities, masks, label = torch.rand(1, 3, 3), torch.randn(1, 3, 5, 7), torch.randint(0, 3, (1, 301, 260))
    best = fuse_masks(probabilities, masks, (301, 260)).argmax(1)
    expected = 100 * (best == label)[:, 1::3, 1::3].float().mean()
    torch.testing.assert_close(fused_accuracy(probabilities, masks, label, 255), expected)


def test_accuracy_without_a_labelled_pixel_is_zero():
    label = torch.full((1, 8, 8), 255)
    assert fused_accuracy(torch.rand(1, 3, 3), torch.randn(1, 3, 2, 2), label, 255) == 0
