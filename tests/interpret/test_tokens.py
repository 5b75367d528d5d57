"""Token maps: what the backbones compute, where it lies in the image, the numbers, and t-SNE."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip('mmcv')

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.interpret import tokens
from mmvit_ext.interpret.tokens import choose_blocks, explain_tokens, find_tokens, mean_similarity, principal_colours
from mmvit_ext.interpret.tsne import Patches, draw_planes, embed_in_plane
from tests.zoo import BACKBONES, PRIME_SIZE


class Model(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone


@pytest.mark.parametrize('name', BACKBONES)
@torch.no_grad()
def test_tokens_of_a_block_are_its_output_map(name: str) -> None:
    backbone: Any = BACKBONES[name].make().eval()
    img = torch.randn(1, 3, *PRIME_SIZE)
    source = find_tokens(Model(backbone), 'c.py')
    found = source.run(img)
    assert list(found) == list(range(1, source.count + 1))
    assert source.count == max(backbone.out_indices) + 1
    assert source.unit == {'NesT': 'level', 'P2T': 'stage'}.get(name, 'block')
    outputs = backbone(img)
    for index, expected, stride in zip(backbone.out_indices, outputs, backbone.out_strides, strict=True):
        assert torch.equal(found[index + 1].patches, expected[0])
        assert found[index + 1].stride == stride
    (one,) = source.run(img, [source.count]).values()
    assert torch.equal(one.patches, found[source.count].patches)


@torch.no_grad()
def test_words_of_a_tnt_lie_where_their_pixels_are() -> None:
    """Each word is put where its pixels are, and a bright spot changes the words of its own patch only."""
    backbone: Any = BACKBONES['TNT'].make().eval()
    stride, patch = backbone.inner_stride, backbone.patch_size
    img = torch.zeros(1, 3, 3 * patch, 5 * patch)
    changed = img.clone()
    y, x = patch + stride, 3 * patch + 2 * stride
    changed[..., y : y + stride, x : x + stride] = 1
    before, after = (find_tokens(backbone, 'c').run(one)[1] for one in (img, changed))
    assert before.words is not None
    assert after.words is not None
    assert after.word_stride == stride
    moved = (after.words - before.words).abs().sum(0)
    assert moved.shape == (3 * patch // stride, 5 * patch // stride)
    edge = patch // stride
    assert moved[edge : 2 * edge, 3 * edge : 4 * edge].min() > 0
    assert moved.sum() == moved[edge : 2 * edge, 3 * edge : 4 * edge].sum()
    words, _ = backbone.blocks[0](*backbone.embed(changed)[:2])  # (15, m, c)
    for n in range(15):
        for m in range(edge * edge):
            place = n // 5 * edge + m // edge, n % 5 * edge + m % edge
            assert torch.equal(after.words[:, place[0], place[1]], words[n, m])


@torch.no_grad()
def test_blocks_without_words_show_none() -> None:
    backbone = BACKBONES['TNT'].make(tnt_block_indices=[1]).eval()
    found = find_tokens(backbone, 'c').run(torch.randn(1, 3, 32, 48))
    assert [number for number, tokens in found.items() if tokens.words is not None] == [2]
    assert len(found) > 2


def test_another_backbone_is_refused_with_what_would_work() -> None:
    wanted = r'c\.py has the backbone Conv2d, whose tokens .*expected a backbone of mmvit_ext'
    with pytest.raises(UserError, match=wanted):
        find_tokens(Model(nn.Conv2d(1, 1, 1)), 'c.py')


def test_the_first_the_middle_and_the_last_block_are_chosen_unless_others_are_named() -> None:
    def chosen(count: int, wanted: list[int] | None = None) -> tuple[int, ...]:
        return choose_blocks(SimpleNamespace(name='TNT', unit='block', count=count), wanted, 'c.py')  # type: ignore[arg-type]

    assert [chosen(count) for count in (1, 2, 3, 6, 12)] == [(1,), (1, 2), (1, 2, 3), (1, 3, 6), (1, 6, 12)]
    assert chosen(12, [9, 3, 9]) == (3, 9)
    for number in (0, 13, -1):
        with pytest.raises(UserError, match=rf'--blocks {number}: the TNT of c\.py runs 12 blocks.*choose 1 to 12'):
            chosen(12, [3, number])


# Numbers


def test_mean_similarity_is_the_mean_over_all_pairs() -> None:
    assert mean_similarity(np.array([[1.0, 0], [0, 2], [3, 0]])) == pytest.approx(1 / 3)
    assert mean_similarity(np.array([[1.0, 1], [-2, -2]])) == pytest.approx(-1)
    assert np.isnan(mean_similarity(np.ones((1, 3))))
    features = np.random.default_rng(0).normal(0.3, 1, (11, 5))
    pairs = [
        features[i] @ features[j] / np.linalg.norm(features[i]) / np.linalg.norm(features[j])
        for i in range(11)
        for j in range(11)
        if i != j
    ]
    assert mean_similarity(features) == pytest.approx(np.mean(pairs))
    assert mean_similarity(features * 7) == pytest.approx(np.mean(pairs))


def test_principal_colours_are_those_of_a_plain_reference() -> None:
    features = np.random.default_rng(0).normal(0, 1, (97, 7)) @ np.diag([5, 3, 2, 1, 1, 0.5, 0.1]) + 4
    colours, share = principal_colours(features)
    left, values, right = np.linalg.svd(features - features.mean(0), full_matrices=False)
    assert share == pytest.approx((values[:3] ** 2).sum() / (values**2).sum())
    for index in range(3):
        sign = np.sign(right[index][np.abs(right[index]).argmax()])
        component = sign * left[:, index]
        inside = (colours[:, index] > 0) & (colours[:, index] < 255)
        assert inside.mean() > 0.9
        assert np.corrcoef(colours[inside, index], component[inside])[0, 1] > 0.9999


def test_principal_colours_follow_the_tokens_and_not_their_order() -> None:
    features = np.random.default_rng(1).normal(0, 1, (31, 5))
    order = np.random.default_rng(2).permutation(31)
    assert np.abs(principal_colours(features[order])[0].astype(int) - principal_colours(features)[0][order]).max() <= 1


@pytest.mark.parametrize('channels', [1, 2, 5])
def test_tokens_that_are_all_alike_are_grey(channels: int) -> None:
    colours, share = principal_colours(np.ones((13, channels), np.float32))
    assert (colours == 128).all()
    assert share == 1


def test_maps_are_drawn_where_their_tokens_lie_and_padding_is_left_out() -> None:
    """An input of 41 x 67 pixels, padded to 48 x 80, with patches of 16: the last row and column are cut."""
    found = torch.arange(15.0).reshape(1, 3, 5).expand(2, 3, 5)
    visible = tokens._visible(torch.nn.functional.pad(found, (0, 2, 0, 1), value=99), 16, (41, 67))
    assert visible.shape == (2, 3, 5)
    drawn = tokens._at_cell(visible[0], 16, (41, 67), (134, 82))
    assert drawn.shape == (82, 134)
    for y in range(82):
        for x in range(134):
            assert drawn[y, x] == int((y + 0.5) / 2 / 16) * 5 + int((x + 0.5) / 2 / 16)


def test_t_sne_keeps_groups_apart_and_repeats_itself() -> None:
    generator = np.random.default_rng(0)
    features = np.concatenate([generator.normal(centre, 0.1, (20, 6)) for centre in (0, 5)]).astype(np.float32)
    plane, perplexity, divergence = embed_in_plane(features, 3)
    assert plane.shape == (40, 2)
    assert perplexity == 13
    assert 0 <= divergence < 1
    distance = np.linalg.norm(plane[:, None] - plane[None], axis=-1) + np.eye(40) * 1e9
    assert (distance.argmin(1) // 20 == np.arange(40) // 20).all()
    assert np.array_equal(plane, embed_in_plane(features, 3)[0])
    assert embed_in_plane(features[:8], 0)[1] == pytest.approx(7 / 3)


@pytest.mark.parametrize(('colouring', 'count'), [('image', 3), ('class', 3), ('image', 20), ('place', 3)])
def test_every_group_of_patches_has_a_colour_of_its_own(colouring: str, count: int, tmp_path: Path) -> None:
    """Patches of one group lie in one spot; classes are numbered with gaps and patches have places of their own."""
    numbers = [np.full(6, 7 * number if colouring == 'class' else number) for number in range(count)]
    places = [np.full((6, 2), [number / count, 1 - number / count]) for number in range(count)]
    patches = Patches([np.zeros((6, 2))] * count, places, numbers, numbers)
    plane = np.repeat(np.stack([np.arange(count), np.zeros(count)], 1), 6, 0)
    names = [f'group {number}' for number in range(150)]
    draw_planes([[('TNT, block 1', patches, plane)]], colouring, names, names, tmp_path / 'plot.png')
    pixels = np.array(Image.open(tmp_path / 'plot.png').convert('RGB')).reshape(-1, 3)
    colours, area = np.unique(pixels, axis=0, return_counts=True)
    vivid = colours[(area > 20) & (np.ptp(colours.astype(int), axis=1) > 25)]
    assert len(vivid) == count


# Refusals


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    'size': ({'edge': 8}, '--size must be 16 to 4096 pixels, got 8'),
    'channels': ({'channels': -1}, '--channels must be at least 0, got -1'),
    'points': ({'points': 7}, '--points must be at least 8, got 7'),
    'seed': ({'seed': -1}, '--seed must be at least 0'),
    'block': ({'blocks': [4]}, '--blocks 4: the TNT of c.py runs'),
    'colours': ({'colouring': 'depth'}, '--colours must be one of image, place, class, got depth'),
    'classes of a detector': ({'colouring': 'class'}, 'c.py is of scope mmdet: use a segmentor'),
}


def predictor(scope: str = 'mmdet', classes: tuple[str, ...] = ('a',)) -> Any:
    return SimpleNamespace(model=Model(BACKBONES['TNT'].make()), scope=scope, classes=list(classes))


@pytest.mark.parametrize('case', REFUSED)
def test_what_cannot_be_shown_is_refused_before_anything_is_written(case: str, tmp_path: Path) -> None:
    options, message = REFUSED[case]
    with pytest.raises(UserError) as caught:
        explain_tokens(predictor(), tmp_path / 'new', 'c.py', 3, **options)
    assert message in str(caught.value)
    assert not (tmp_path / 'new').exists()


def test_models_of_different_classes_have_no_colours_of_classes_in_common(tmp_path: Path) -> None:
    one, other = predictor('mmseg'), predictor('mmseg', ('b', 'c'))
    with pytest.raises(UserError, match=r'two models of the same classes, d\.py has others than c\.py'):
        explain_tokens(one, tmp_path, 'c.py', 3, beside=(other, 'd.py'), colouring='class')
    explain_tokens(one, tmp_path, 'c.py', 3, beside=(other, 'd.py'))


def test_a_missing_scikit_learn_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match='pip install scikit-learn, or pass --no-tsne'):
        explain_tokens(predictor(), tmp_path, 'c.py', 3)
    explain_tokens(predictor(), tmp_path, 'c.py', 3, tsne=False)
