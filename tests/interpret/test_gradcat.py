"""GradCAT: node values against derivatives by difference, paths by hand, boxes, regions, pictures, refusals."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip('mmpretrain')

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmvit_ext.config.loading import load_config
from mmvit_ext.datasets.placement import Placement
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.inference.predictor import Predictor
from mmvit_ext.interpret.gradcat import Step, Traversal, _descend, class_scores, find_levels, traverse
from mmvit_ext.interpret.gradcat_pictures import describe_traversal, draw_traversal, explain_gradcat, read_region
from mmvit_ext.interpret.inputs import OpenedImage, PlacedImage
from mmvit_ext.models.backbones.nest import NesT
from tests.config_tools import ROOT

ARCH = {'embed_dims': (8, 12, 20), 'num_heads': (1, 2, 2), 'depths': (1, 1, 1)}
CLASSES = 7
SIGMOID = dict(type='mmseg.CrossEntropyLoss', use_sigmoid=True)
CONFIG = ROOT / 'configs' / 'nest' / 'nest-mini_1xb8-450_mini-imagenet-96x96.py'
SMALL = {
    'model.backbone.arch': dict(embed_dims=(8, 12, 20), num_heads=(1, 2, 2), depths=(1, 1, 1)),
    'model.head.in_channels': 20,
}


def randomize(model):
    """Weights large enough that no block is like another."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model.eval()


def classifier(dtype=torch.float64):
    init_default_scope('mmpretrain')
    backbone = dict(type='mmvit_ext.NesT', arch=ARCH, img_size=32, patch_size=2, block_size=4, out_indices=-1)
    model = dict(
        type='mmpretrain.ImageClassifier',
        backbone=backbone,
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
        head=dict(type='mmpretrain.LinearClsHead', num_classes=CLASSES, in_channels=20),
    )
    return randomize(MODELS.build(model)).to(dtype)


def segmentor(dtype=torch.float64, **changes):
    pytest.importorskip('mmseg')
    init_default_scope('mmseg')
    backbone = dict(type='mmvit_ext.NesT', arch=ARCH, img_size=32, patch_size=2, block_size=4, out_indices=(0, 2))
    head = dict(
        type='mmseg.FCNHead',
        in_channels=20,
        in_index=1,
        channels=6,
        num_convs=1,
        num_classes=2 if 'out_channels' in changes else CLASSES,
        norm_cfg=dict(type='BN'),
        align_corners=False,
        **changes,
    )
    config = dict(type='mmseg.EncoderDecoder', backbone=backbone, decode_head=head, test_cfg=dict(mode='whole'))
    model = randomize(MODELS.build(config)).to(dtype)
    model.config = config
    return model


def image(*size):
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


# Numbers


@pytest.mark.parametrize('rivals', [0, 2])
def test_node_values_are_what_the_score_gains_when_a_part_of_a_map_grows(rivals):
    """The sum of map times gradient over a part is the derivative of the score by the part's size."""
    model, img = classifier(), image(32, 32)
    (walked,) = traverse(model, img, [2], rivals=rivals)
    backbone = model.backbone
    with torch.no_grad():
        _, low, top = backbone.forward_intermediates(img, backbone.stage_names).values()
        logits = model.head(model.neck((top,)))[0]
        others = [label for label in logits.argsort(descending=True).tolist() if label != 2][:rivals]

        def score(values):
            found = model.head(model.neck((values,)))[0]
            return found[2] - (found[others].mean() if others else 0)

        def from_level_1(values):
            return score(backbone.norm(backbone.levels[2](values)[-1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2))

        assert [step.level for step in walked.steps] == [2, 1]
        y, x = (4 * part for part in walked.steps[0].chosen)
        for step, values, run, (top_row, left) in (
            (walked.steps[0], top, score, (0, 0)),
            (walked.steps[1], low, from_level_1, (y, x)),
        ):
            for row in (0, 1):
                for column in (0, 1):
                    rows = slice(top_row + 2 * row, top_row + 2 * row + 2)
                    columns = slice(left + 2 * column, left + 2 * column + 2)
                    pieces = []
                    for change in (1e-4, -1e-4):
                        changed = values.clone()
                        changed[..., rows, columns] *= 1 + change
                        pieces.append(run(changed))
                    slope = (pieces[0] - pieces[1]) / 2e-4
                    # Four tokens make a part of a block of 4 x 4.
                    assert step.values[row][column] == pytest.approx(float(slope) / 4, rel=1e-5, abs=1e-9)


def test_without_rivals_the_values_at_the_top_add_up_to_the_logit():
    model = classifier()
    (walked,) = traverse(model, image(32, 32), [4], rivals=0)
    total = 4 * sum(sum(row) for row in walked.steps[0].values)
    assert total == pytest.approx(walked.logit - float(model.head.fc.bias[4].detach()))


def test_what_is_added_to_all_logits_alike_changes_nothing_against_rivals():
    model, img = classifier(), image(32, 32)
    before, alone = traverse(model, img, [3])[0], traverse(model, img, [3], rivals=0)[0]
    with torch.no_grad():
        model.head.fc.weight += torch.randn(20, dtype=torch.float64)
    after, alone_after = traverse(model, img, [3])[0], traverse(model, img, [3], rivals=0)[0]
    for one, other in zip(before.steps, after.steps, strict=True):
        assert np.array(one.values) == pytest.approx(np.array(other.values))
    assert np.array(alone.steps[0].values) != pytest.approx(np.array(alone_after.steps[0].values))


def test_the_other_sign_takes_the_least_value():
    model, img = classifier(), image(32, 32)
    (one,), (other,) = (traverse(model, img, [1], sign=sign) for sign in ('positive', 'negative'))
    values = np.array(one.steps[0].values)
    assert np.array(other.steps[0].values) == pytest.approx(-values)
    assert np.unravel_index(values.argmin(), (2, 2)) == other.steps[0].chosen
    assert np.unravel_index(values.argmax(), (2, 2)) == one.steps[0].chosen


def test_classes_are_walked_one_by_one_as_together():
    model, img = classifier(), image(40, 56)
    together = traverse(model, img, [0, 5, 2])
    assert [walked.label for walked in together] == [0, 5, 2]
    assert together == [traverse(model, img, [label])[0] for label in (0, 5, 2)]


# Paths


def backbone_of(levels=3):
    arch = {'embed_dims': (4,) * levels, 'num_heads': (1,) * levels, 'depths': (1,) * levels}
    return NesT(arch, img_size=32, patch_size=2, block_size=4)


def test_a_path_goes_to_the_largest_part_of_each_block():
    low, mid, high = torch.zeros(16, 16), torch.zeros(8, 8), torch.zeros(4, 4)
    high[3, 0] = 1  # the lower left quadrant
    mid[0, 0] = 9  # not in it
    mid[4, 3] = 0.5  # in it: its upper right quadrant
    steps = _descend(backbone_of(), [low, mid, high], (32, 32))
    assert [(step.level, step.chosen, step.box) for step in steps] == [
        (2, (1, 0), (0, 0, 32, 32)),
        (1, (0, 1), (0, 16, 16, 32)),
    ]
    assert steps[0].values == ((0, 0), (0.25, 0))
    assert steps[1].next_box == (8, 16, 16, 24)


def test_of_several_blocks_at_the_top_the_best_one_is_entered():
    """A wide map of 5 x 11 tokens: 2 x 3 blocks, those at the border cut."""
    high, mid = torch.full((5, 11), -1.0), torch.zeros(9, 21)
    high[:4, 4:8] = 0.25
    high[4, 8] = 3.0  # a mean over a cut block would take this one
    mid[3, 14] = 1.0
    steps = _descend(backbone_of(2), [mid, high], (18, 42))
    assert steps[0].box == (0, 0, 42, 18)
    assert steps[0].boxes == (
        ((0, 0, 16, 16), (16, 0, 32, 16), (32, 0, 42, 16)),
        ((0, 16, 16, 18), (16, 16, 32, 18), (32, 16, 42, 18)),
    )
    assert np.array(steps[0].values) == pytest.approx(np.array([[-1, 0.25, -0.75], [-0.25, -0.25, (3 - 2) / 16]]))
    assert steps[0].chosen == (0, 1)
    assert steps[1].box == (16, 0, 32, 16)


def test_parts_beyond_the_map_are_never_chosen():
    """A block of 1 x 3 tokens has no lower parts, and its upper ones may both be negative."""
    high, mid = torch.full((1, 3), -1.0), torch.zeros(1, 5)
    (step,) = _descend(backbone_of(2), [mid, high], (2, 10))
    assert step.values[1] == (None, None)
    assert step.boxes[1] == (None, None)
    assert step.boxes[0] == ((0, 0, 8, 2), (8, 0, 10, 2))
    assert step.chosen == (0, 1)


@pytest.mark.parametrize('size', [(32, 32), (47, 83), (29, 31), (130, 66)])
def test_any_image_size_gives_a_path_of_boxes_inside_one_another(size):
    (walked,) = traverse(classifier(), image(*size), [0])
    boxes = [walked.steps[0].box, *(step.next_box for step in walked.steps)]
    for outer, inner in itertools.pairwise(boxes):
        assert outer[0] <= inner[0] < inner[2] <= outer[2] <= size[1]
        assert outer[1] <= inner[1] < inner[3] <= outer[3] <= size[0]
    assert [step.level for step in walked.steps][-2:] == [2, 1]


# Segmentors


def test_a_segmentors_score_is_the_mean_over_the_region():
    model, img = segmentor(), image(38, 54)
    with torch.no_grad():
        logits = model.encode_decode(img, [{'img_shape': (38, 54)}])[0]
    assert torch.allclose(class_scores(model, img), logits)
    region = torch.zeros(38, 54, dtype=torch.bool)
    region[5:20, 30:50] = True
    (inside,), (everywhere,) = (traverse(model, img, [3], region=part) for part in (region, None))
    assert inside.logit == pytest.approx(float(logits[3, 5:20, 30:50].mean()))
    assert everywhere.logit == pytest.approx(float(logits[3].mean()))
    assert inside.steps[0].values != everywhere.steps[0].values


@pytest.mark.parametrize('threshold', [0.3, 0.7])
def test_the_one_map_of_a_binary_segmentor_speaks_for_both_classes(threshold, photo, tmp_path):
    model = segmentor(torch.float32, out_channels=1, threshold=threshold, loss_decode=SIGMOID)
    img = image(38, 54).float()
    with torch.no_grad():
        ordered = model.encode_decode(img, [{'img_shape': (38, 54)}]).flatten().sort()[0][500:-500]
        # The limit lies in the widest gap between two pixels: rounding differs between machines.
        left = ordered.diff().argmax()
        limit = (ordered[left] + ordered[left + 1]) / 2
        assert ordered[left + 1] - ordered[left] > 1e-4
        model.decode_head.conv_seg.bias += float(np.log(threshold / (1 - threshold))) - limit
        (logits,) = model.encode_decode(img, [{'img_shape': (38, 54)}])[0]
    scores = class_scores(model, img)
    assert torch.equal(scores[1], logits)
    predicted = logits.sigmoid() > threshold
    assert torch.equal(scores.argmax(0).bool(), predicted)
    assert 0 < predicted.float().mean() < 1
    background, crack = traverse(model, img, [0, 1])
    assert crack.logit == pytest.approx(float(logits.mean()), rel=1e-4)
    assert np.array(background.steps[0].values) == pytest.approx(-np.array(crack.steps[0].values), rel=1e-4)
    assert crack == traverse(model, img, [1], rivals=1)[0]


def test_classes_of_a_binary_segmentor_are_named(tmp_path, photo):
    pytest.importorskip('mmseg')
    pipeline = [dict(type='mmvit_ext.LoadImageFromFile'), dict(type='PackSegInputs')]
    metainfo = dict(classes=('background', 'crack'))
    model = segmentor(torch.float32, out_channels=1, threshold=0.5, loss_decode=SIGMOID)
    preprocessor = dict(type='SegDataPreProcessor', mean=[127.5] * 3, std=[127.5] * 3, pad_val=0, seg_pad_val=255)
    cfg = Config(
        dict(
            default_scope='mmseg',
            test_dataloader=dict(dataset=dict(type='BaseSegDataset', metainfo=metainfo, pipeline=pipeline)),
            model={**model.config, 'data_preprocessor': preprocessor},
        )
    )
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'model.pth')
    predictor = Predictor(cfg, tmp_path / 'model.pth', torch.device('cpu'))
    for options in ({}, {'classes': ['crack']}):
        found = explain_gradcat(predictor, tmp_path, 'c.py', **options).explain(OpenedImage(predictor, photo), 'photo')
        names = [row['class'] for row in found.facts['classes']]
        assert 'crack' in names
        assert [row['index'] for row in found.facts['classes']] == [predictor.classes.index(name) for name in names]


def test_a_region_is_given_in_pixels_of_the_image(tmp_path):
    place = Placement((0.5, 0.5), (-2.0, -1.0), (20, 30), (8, 12))
    placed = PlacedImage(np.zeros((20, 30, 3), np.uint8), torch.zeros(1, 3, 9, 14), place)
    found = read_region((10, 6, 20, 14), placed)
    expected = torch.zeros(9, 14, dtype=torch.bool)
    expected[2:6, 3:8] = True
    assert torch.equal(found, expected)
    mask = np.zeros((20, 30), np.uint8)
    mask[6:14, 10:20] = 1
    Image.fromarray(mask).save(tmp_path / 'mask.png')
    assert torch.equal(read_region(tmp_path / 'mask.png', placed), expected)
    Image.fromarray(mask[:5]).save(tmp_path / 'small.png')
    with pytest.raises(UserError, match='has 30x5 pixels, the image 30x20'):
        read_region(tmp_path / 'small.png', placed)
    with pytest.raises(UserError, match='must be left, top, right and bottom'):
        read_region((10, 6, 10, 14), placed)
    with pytest.raises(UserError, match='cannot be read'):
        read_region(tmp_path / 'none.png', placed)


# Refusals


def test_models_without_nested_levels_are_refused():
    model = classifier()
    model.backbone = nn.Conv2d(3, 4, 1)
    with pytest.raises(UserError, match=r'c\.py has the backbone Conv2d and no nested levels .* configs/nest'):
        find_levels(model, 'c.py')
    lonely = nn.Module()
    lonely.backbone = backbone_of()
    with pytest.raises(UserError, match='have no scores of an image'):
        find_levels(lonely)
    model = classifier()
    model.backbone.out_indices = (0,)
    with pytest.raises(UserError, match='uses the lowest level of its NesT only'):
        find_levels(model)


def test_wrong_arguments_are_refused():
    model, img = classifier(), image(32, 32)
    with pytest.raises(UserError, match='there is no class 7, this model has 7: expected 0 to 6'):
        traverse(model, img, [7])
    with pytest.raises(ValueError, match=r"sign must be one of .* got '-'"):
        traverse(model, img, [0], sign='-')
    with pytest.raises(ValueError, match='rivals must be 0 to 6'):
        traverse(model, img, [0], rivals=7)
    with pytest.raises(UserError, match='a region is for segmentors'):
        traverse(model, img, [0], region=torch.ones(32, 32, dtype=torch.bool))
    with pytest.raises(UserError, match='holds no pixel'):
        traverse(segmentor(), img, [0], region=torch.zeros(32, 32, dtype=torch.bool))
    with pytest.raises(UserError, match=r'must have the size \(32, 32\)'):
        traverse(segmentor(), img, [0], region=torch.zeros(31, 32, dtype=torch.bool))


# Pictures and files


def walked_by_hand():
    quarters = (((0.0, 0.0, 20.0, 20.0), (20.0, 0.0, 40.0, 20.0)), ((0.0, 20.0, 20.0, 40.0), None))
    return Traversal(5, 1.5, (Step(1, (0.0, 0.0, 40.0, 40.0), ((1.0, 2.0), (0.5, None)), quarters, (0, 1)),))


def test_facts_have_boxes_of_the_image_and_fit_json():
    place = Placement((0.5, 0.5), (-10.0, 0.0), (70, 100), (40, 40))
    placed = PlacedImage(np.zeros((70, 100, 3), np.uint8), torch.zeros(1, 3, 40, 40), place)
    facts = json.loads(json.dumps(describe_traversal(walked_by_hand(), 'cat', placed), allow_nan=False))
    assert facts == {
        'class': 'cat',
        'index': 5,
        'logit': 1.5,
        'box': [60, 0, 100, 40],
        'steps': [
            {
                'level': 1,
                'box': [20, 0, 100, 70],
                'values': [[1, 2], [0.5, None]],
                'boxes': [[[20, 0, 60, 40], [60, 0, 100, 40]], [[20, 40, 60, 70], None]],
                'chosen': [0, 1],
            }
        ],
    }


def test_the_picture_frames_the_blocks_and_darkens_what_is_not_seen():
    place = Placement((1.0, 1.0), (-10.0, 0.0), (40, 60), (40, 40))
    placed = PlacedImage(np.full((40, 60, 3), 90, np.uint8), torch.zeros(1, 3, 40, 40), place)
    picture = np.array(draw_traversal(placed, walked_by_hand(), edge=240))
    left, top = 6, 24  # gap and headings of a table of that size
    shown = picture[top : top + 160, left : left + 240]
    assert (shown[80, 20] == 30).all()
    assert (shown[120, 80] == 90).all()
    yellow = (shown == (255, 214, 10)).all(-1)
    rows, columns = np.nonzero(yellow[:, 160:])
    assert (rows.min(), rows.max(), columns.max() + 160) == (0, 79, 199)
    assert picture.shape[1] > 240 + 160  # a panel for the step


@pytest.fixture(scope='module')
def predictor(tmp_path_factory):
    init_default_scope('mmpretrain')
    cfg = load_config(CONFIG, SMALL)
    model = randomize(MODELS.build(cfg.model))
    path = tmp_path_factory.mktemp('model') / 'model.pth'
    torch.save({'state_dict': model.state_dict()}, path)
    return Predictor(cfg, path, torch.device('cpu'))


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (131, 193, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'photo.png')
    return tmp_path / 'photo.png'


def test_an_image_file_is_explained_for_its_best_and_for_named_classes(predictor, photo, tmp_path):
    found = explain_gradcat(predictor, tmp_path, 'c.py', top=2, edge=120).explain(
        OpenedImage(predictor, photo), 'photo'
    )
    placed = OpenedImage(predictor, photo).placed
    logits = class_scores(predictor.model, placed.inputs)
    best = logits.topk(2).indices.tolist()
    assert [row['index'] for row in found.facts['classes']] == best
    assert [Path(file).name for _, file in found.pictures] == [f'photo_{label}.png' for label in best]
    assert all(Image.open(file).width > 120 for _, file in found.pictures)
    # The middle of an image that is resized to 162 x 110 pixels.
    assert found.facts['seen of the image'] == pytest.approx([39.3, 8.3, 153.7, 122.7], abs=0.5)
    name = predictor.classes[404]
    named = explain_gradcat(predictor, tmp_path, 'c.py', classes=[name.upper(), '281']).explain(
        OpenedImage(predictor, photo), 'photo'
    )
    assert [row['index'] for row in named.facts['classes']] == [404, 281]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'classes': ['no such thing']}, "'no such thing' is none of the 1000 classes"),
        ({'classes': ['1000']}, 'there is no class 1000, this model has 1000: expected 0 to 999'),
        ({'classes': ['-1']}, 'there is no class -1'),
        ({'top': 0}, '--top must be at least 1'),
        ({'top': 2, 'classes': ['281']}, 'leave one of them out'),
        ({'sign': 'plus'}, '--sign must be positive or negative'),
        ({'rivals': 1000}, '--rivals must be 0 to 999'),
        ({'region': (0, 0, 5, 5)}, '--region is for segmentors'),
        ({'edge': 5}, '--size must be 16'),
    ],
)
def test_what_cannot_be_explained_is_refused_before_an_image_is_read(predictor, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        explain_gradcat(predictor, tmp_path, 'c.py', **options)


@pytest.mark.parametrize('count', [1, 2, 3])
def test_models_of_few_classes_are_walked_by_default_and_compared_with_all_others(count):
    model = classifier()
    model.head.fc = nn.Linear(20, count).double()
    img = image(32, 32)
    assert traverse(model, img, [0]) == traverse(model, img, [0], rivals=count - 1)
    with pytest.raises(ValueError, match=f'rivals must be 0 to {count - 1}'):
        traverse(model, img, [0], rivals=count)
