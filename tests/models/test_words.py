"""Cutting words out of patches and projecting them."""

import pytest
import torch
import torch.nn.functional as F

from benchmarks.plain_tnt import plain_words
from mmvit_ext.models.backbones.tnt import SqueezeExcitation, WordEmbedding, WordProjection


@pytest.mark.parametrize(('patch_size', 'stride'), [(16, 4), (16, 8), (16, 2), (16, 16), (6, 3), (5, 1), (8, 2)])
def test_words_and_gradients_are_those_of_patches_cut_out_one_by_one(patch_size, stride):
    torch.manual_seed(0)
    embed = WordEmbedding(3, 7, stride=stride, patch_size=patch_size, padding='patch')
    img = torch.randn(2, 3, 3 * patch_size, 5 * patch_size, requires_grad=True)
    leaves, results = (img, *embed.parameters()), []
    for function in (embed, lambda img: plain_words(img, *embed.parameters(), stride=stride, patch_size=patch_size)):
        words = function(img)
        results.append([words, *torch.autograd.grad(words.square().sum(), leaves)])
    assert results[0][0].shape == (30, (patch_size // stride) ** 2, 7)
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-3)


def test_a_word_in_the_corner_sees_the_sixteen_pixels_that_its_kernel_has_inside_the_patch():
    """Ones under a kernel of ones: 7 x 7 pixels in the middle, 4 x 7 at an upper or left edge, 4 x 4 in the corner."""
    embed = WordEmbedding(1, 1, stride=4, patch_size=16, padding='patch')
    embed.projection.load_state_dict({'weight': torch.ones(1, 1, 7, 7), 'bias': torch.zeros(1)})
    words = embed(torch.ones(1, 1, 32, 32))
    seen = torch.tensor([4.0, 7.0, 7.0, 7.0])
    assert torch.equal(words.view(4, 4, 4), torch.outer(seen, seen).expand(4, 4, 4))


def test_words_do_not_see_the_patch_beside_them():
    embed = WordEmbedding(3, 5, stride=4, patch_size=16, padding='patch')
    img = torch.randn(1, 3, 32, 48)
    changed = img.clone()
    changed[:, :, 16:, 16:32] += 1
    moved = (embed(changed) != embed(img)).flatten(1).any(1)
    assert moved.tolist() == [False, False, False, False, True, False]


@pytest.mark.parametrize('stride', [2, 4, 8])
def test_with_the_padding_of_the_image_words_are_those_of_one_convolution(stride):
    embed = WordEmbedding(3, 5, stride=stride, patch_size=16, padding='image')
    img = torch.randn(2, 3, 32, 48)
    whole, edge = embed.projection(img), 16 // stride
    words = embed(img).view(2, 2, 3, edge, edge, 5)
    for row in range(2):
        for column in range(3):
            part = whole[:, :, row * edge : (row + 1) * edge, column * edge : (column + 1) * edge]
            assert torch.equal(words[:, row, column], part.permute(0, 2, 3, 1))


def test_words_are_normalised_together_or_each_by_itself():
    words = torch.randn(3, 4, 5) * torch.tensor([1.0, 10.0, 100.0, 1000.0]).view(4, 1)
    for norm, shape in (('sentence', (20,)), ('word', (5,))):
        projection = WordProjection(4, 5, 7, norm=norm, bias=True, norm_cfg={'type': 'LN'})
        normalised = F.layer_norm(words.flatten(1) if norm == 'sentence' else words, shape).flatten(1)
        expected = projection.proj(normalised)
        expected = F.layer_norm(expected, (7,)) if norm == 'sentence' else expected
        torch.testing.assert_close(projection(words), expected)


def test_squeeze_and_excitation_adds_the_channels_gated_by_the_mean_token():
    se = SqueezeExcitation(8, {'type': 'LN'})
    torch.nn.init.uniform_(se.norm.weight)
    torch.nn.init.uniform_(se.norm.bias)
    x = torch.randn(2, 5, 8)
    mean = F.layer_norm(x.mean(1), (8,), se.norm.weight, se.norm.bias)
    gate = torch.tanh(se.fc2(torch.relu(se.fc1(mean))))
    torch.testing.assert_close(se(x), x * (1 + gate[:, None]))
    assert gate.shape == (2, 8)
