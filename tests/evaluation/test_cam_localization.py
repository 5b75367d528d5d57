"""Class activation maps, boxes around them, and how often these meet the true ones."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip('mmpretrain')

from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from mmvit_ext.config.loading import load_config
from mmvit_ext.datasets.mini import DATA_ROOTS, make_mini_dataset
from mmvit_ext.datasets.placement import Placement
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.evaluation.cam_localization import CAMLocalization, box_iou
from mmvit_ext.inference.predictor import Predictor
from mmvit_ext.interpret.cam import box_from_map, class_activation_maps, draw_activation, explain_cam, upsample_map
from mmvit_ext.interpret.inputs import OpenedImage
from mmvit_ext.models.classifiers.cam_classifier import class_maps, strongest_rivals
from mmvit_ext.registry import METRICS
from tests.config_tools import ROOT

CONFIG = ROOT / 'configs' / 'nest' / 'cam_nest-mini_mini-imagenet-96x96.py'
SMALL = {
    'model.backbone.arch': dict(embed_dims=(8, 12, 20), num_heads=(1, 2, 2), depths=(1, 1, 1)),
    'model.head.in_channels': 20,
}
CLASSES = 7
NEST = dict(
    type='mmvit_ext.NesT',
    arch={'embed_dims': (8, 12, 20), 'num_heads': (1, 2, 2), 'depths': (1, 1, 1)},
    img_size=32,
    patch_size=2,
    block_size=4,
    out_indices=-1,
)
P2T = dict(
    type='mmvit_ext.P2T',
    arch={'embed_dims': (4, 8, 12, 20), 'num_heads': (1, 1, 2, 2), 'depths': (1, 1, 1, 1), 'mlp_ratios': (2, 2, 2, 2)},
    out_indices=(3,),
)
TNT = dict(
    type='mmvit_ext.TNT',
    arch=dict(embed_dims_outer=20, embed_dims_inner=8, num_layers=2, num_heads_outer=2, num_heads_inner=2),
    img_size=32,
)
SPFORMER = dict(
    type='mmvit_ext.SPFormer',
    arch={'embed_dims': 20, 'depths': (1, 1), 'num_heads': 2, 'sca_heads': 2},
    img_size=32,
    out_type='avg_featmap',
)
VIT = dict(type='mmvit_ext.ViT', arch='tiny', embed_dims=20, num_layers=2, num_heads=2, img_size=32, patch_size=8)
GAP = dict(type='mmpretrain.GlobalAveragePooling')
HEAD = dict(type='mmpretrain.LinearClsHead', num_classes=CLASSES, in_channels=20)


def classifier(backbone, neck=GAP):
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = MODELS.build(dict(type='mmpretrain.ImageClassifier', backbone=backbone, neck=neck, head=HEAD))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


# Maps


@torch.no_grad()
def test_a_head_of_several_labels_has_a_probability_of_each(tmp_path):
    model = classifier(NEST)
    given = model.state_dict()
    head = dict(type='mmpretrain.MultiLabelLinearClsHead', num_classes=CLASSES, in_channels=20)
    model = MODELS.build(dict(type='mmpretrain.ImageClassifier', backbone=NEST, neck=GAP, head=head)).eval()
    model.load_state_dict(given)
    x = torch.randn(1, 3, 32, 32)
    (sample,) = model.predict(x)
    found = class_activation_maps(model, x, range(CLASSES))
    assert [one.probability for one in found] == pytest.approx(sample.pred_score.tolist(), rel=1e-4)
    (sample,) = classifier(NEST).predict(x)
    found = class_activation_maps(classifier(NEST), x, range(CLASSES))
    assert [one.probability for one in found] == pytest.approx(sample.pred_score.tolist(), rel=1e-4)


@pytest.mark.parametrize(
    ('backbone', 'neck'),
    [(NEST, GAP), (P2T, GAP), (VIT, GAP), (dict(TNT, out_type='avg_featmap'), None), (TNT, GAP), (SPFORMER, None)],
    ids=['NesT', 'P2T', 'ViT', 'TNT', 'TNT with a neck', 'SPFormer'],
)
@torch.no_grad()
def test_the_mean_of_a_map_is_the_logit_that_the_classifier_gives(backbone, neck):
    model = classifier(backbone, neck)
    images = torch.randn(2, 3, 64, 96)
    logits, maps = class_maps(model, images)
    assert torch.allclose(logits, model(images), atol=1e-4)
    assert torch.allclose(maps.mean((2, 3)) + model.head.fc.bias, logits, atol=1e-4)
    assert maps.shape[:2] == (2, CLASSES)
    assert maps.std((2, 3)).min() > 0
    assert getattr(model.backbone, 'out_type', None) == backbone.get('out_type', 'featmap')


@torch.no_grad()
def test_a_map_is_the_product_of_features_and_class_weights():
    model = classifier(NEST)
    image = torch.randn(1, 3, 32, 48)
    features, weight = model.backbone(image)[-1][0], model.head.fc.weight
    expected = torch.zeros(CLASSES, *features.shape[1:])
    for label in range(CLASSES):
        for y, x in np.ndindex(*features.shape[1:]):
            expected[label, y, x] = sum(float(weight[label, c] * features[c, y, x]) for c in range(20))
    assert torch.allclose(class_maps(model, image)[1][0], expected, atol=1e-4)


@torch.no_grad()
def test_an_adapted_layer_of_classes_changes_the_maps():
    """An output hook stands for an adapter: it is part of what the classifier computes."""
    model, image = classifier(SPFORMER, None), torch.randn(1, 3, 32, 48)
    before = class_maps(model, image)[1]
    model.head.fc.register_forward_hook(lambda module, inputs, output: 2 * output)
    logits, maps = class_maps(model, image)
    assert torch.allclose(maps, 2 * before, atol=1e-4)
    assert torch.allclose(logits, model(image), atol=1e-4)


def test_classifiers_that_take_no_mean_are_refused():
    model = classifier(dict(TNT, out_type='cls_token'), None)
    with pytest.raises(
        UserError, match=r"c\.py has no .*TNT with out_type='cls_token' and no neck .*GlobalAveragePool"
    ):
        class_activation_maps(model, torch.randn(1, 3, 32, 32), source='c.py')
    with pytest.raises(ValueError, match='Linear has no linear layer of classes'):
        class_maps(nn.Linear(1, 1), torch.randn(1, 3, 32, 32))


def test_rivals_are_the_highest_others():
    logits = torch.tensor([0.1, 5.0, 3.0, 4.0])
    assert strongest_rivals(logits, 1, 2).tolist() == [3, 2]
    assert strongest_rivals(logits, 0, 3).tolist() == [1, 3, 2]
    assert logits.tolist() == pytest.approx([0.1, 5.0, 3.0, 4.0])


@torch.no_grad()
def test_activations_compare_the_class_with_its_rivals():
    model, image = classifier(NEST), torch.randn(1, 3, 32, 48)
    logits, maps = class_maps(model, image)
    best, second, third = logits[0].argsort(descending=True).tolist()[:3]
    (alone,) = class_activation_maps(model, image, [best], rivals=0)
    (compared,) = class_activation_maps(model, image, [best], rivals=2)
    assert np.allclose(alone.values, upsample_map(maps[0, best], (32, 48)))
    expected = maps[0, best] - (maps[0, second] + maps[0, third]) / 2
    assert np.allclose(compared.values, upsample_map(expected, (32, 48)), atol=1e-5)
    assert compared.probability == pytest.approx(float(logits[0].softmax(0)[best]), abs=1e-5)
    assert [found.label for found in class_activation_maps(model, image, top=3)] == [best, second, third]


# Boxes


def test_a_box_is_that_of_the_largest_piece():
    cam = np.zeros((9, 11))
    cam[1:3, 1:3] = 5.0  # higher, but smaller
    cam[5:8, 4:6] = 3.0
    cam[4, 6] = 3.0  # touches it at a corner
    assert box_from_map(cam, 0.5) == (4, 4, 7, 8)
    assert box_from_map(cam, 0.7) == (1, 1, 3, 3)
    assert box_from_map(-np.ones((4, 5))) == (0, 0, 5, 4)


@pytest.mark.parametrize('seed', range(5))
def test_boxes_are_those_of_another_implementation(seed):
    measure = pytest.importorskip('skimage.measure')
    cam = np.random.default_rng(seed).normal(size=(13, 17))
    labels = measure.label(cam > cam.min() + 0.6 * (cam.max() - cam.min()), connectivity=2)
    regions = measure.regionprops(labels)
    largest = [region for region in regions if region.area == max(other.area for other in regions)]
    expected = {(float(r.bbox[1]), float(r.bbox[0]), float(r.bbox[3]), float(r.bbox[2])) for r in largest}
    assert box_from_map(cam, 0.6) in expected


def test_a_box_does_not_depend_on_scale_and_offset_of_the_map():
    cam = np.random.default_rng(0).normal(size=(13, 17))
    assert box_from_map(7 * cam - 100) == box_from_map(cam)


def test_bad_maps_and_thresholds_are_refused():
    with pytest.raises(ValueError, match='threshold must be a share'):
        box_from_map(np.zeros((3, 3)), 1.0)
    with pytest.raises(ValueError, match='not finite'):
        box_from_map(np.full((3, 3), np.nan))


def test_overlap_of_boxes():
    assert box_iou((0, 0, 4, 4), (2, 1, 6, 3)) == pytest.approx(4 / 20)
    assert box_iou((0, 0, 4, 4), (0, 0, 4, 4)) == 1
    assert box_iou((0, 0, 4, 4), (4, 0, 8, 4)) == 0
    assert box_iou((3, 3, 3, 3), (3, 3, 3, 3)) == 0


# The metric


def sample(cam, boxes, right=True, **changed):
    """An image of 40 x 20 pixels of which the network sees the right half, in 8 x 8 pixels."""
    place = Placement((0.4, 0.4), (-8.0, 0.0), (20, 40), (8, 8))
    entry = {'cam': cam, 'boxes': np.array(boxes), 'placement': place, 'gt_label': torch.tensor([3])}
    return {**entry, 'pred_label': torch.tensor([3 if right else 4]), **changed}


def test_localisation_counts_hits_in_pixels_of_the_image():
    cam = torch.zeros(8, 8)
    cam[2:6, 0:4] = 1.0  # in the image: left 20, top 5, right 30, bottom 15
    metric = METRICS.build(dict(type='mmvit_ext.CAMLocalization', threshold=0.5))
    metric.process({}, [sample(cam, [[20, 5, 30, 15]]), sample(cam, [[0, 0, 5, 5], [20, 5, 30, 18]], right=False)])
    metric.process({}, [sample(cam, [[20, 5, 40, 20]]), sample(cam, [[0, 5, 10, 15]])])
    found = metric.evaluate(4)
    assert found['cam/gt_known'] == 50
    assert found['cam/top1'] == 25
    assert found['cam/mean_iou'] == pytest.approx((1 + 100 / 130 + 100 / 300) / 4)
    strict = CAMLocalization(0.5, iou=0.9)
    strict.process({}, [sample(cam, [[20, 5, 30, 15]]), sample(cam, [[20, 5, 30, 18]])])
    assert strict.evaluate(2)['cam/gt_known'] == 50


@pytest.mark.parametrize(
    ('name', 'remedy'), [('cam', 'CAMClassifier'), ('boxes', 'LoadBoxes'), ('placement', 'TrackPlacement')]
)
def test_what_the_metric_lacks_is_said(name, remedy):
    entry = sample(torch.zeros(2, 2), [[0, 0, 1, 1]])
    del entry[name]
    with pytest.raises(UserError, match=f'needs {name} of each image: .*{remedy}'):
        CAMLocalization().process({}, [entry])


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match='threshold must be'):
        CAMLocalization(1.0)
    with pytest.raises(ValueError, match='iou must be'):
        CAMLocalization(iou=0)
    with pytest.raises(ValueError, match='rivals must be 0 or more'):
        MODELS.build(dict(type='mmvit_ext.CAMClassifier', backbone=NEST, head=HEAD, neck=GAP, rivals=-1))


def test_the_model_that_keeps_maps_predicts_as_the_classifier_and_is_not_trained():
    init_default_scope('mmpretrain')
    model = classifier(NEST)
    keeping = MODELS.build(dict(type='mmvit_ext.CAMClassifier', backbone=NEST, head=HEAD, neck=GAP, rivals=2))
    keeping.load_state_dict(model.state_dict())
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(keeping.eval()(image), model(image), atol=1e-4)
        (sample,) = keeping(image, mode='predict')
        (expected,) = class_activation_maps(model, image, top=1, rivals=2)
    assert int(sample.pred_label) == expected.label
    assert np.allclose(upsample_map(sample.cam, (32, 32)), expected.values, atol=1e-4)
    with pytest.raises(ValueError, match=r"only predicts, mode must be .* got 'loss'"):
        keeping(image, mode='loss')
    with pytest.raises(ValueError, match='has no map that its classes are read from'):
        MODELS.build(dict(type='mmvit_ext.CAMClassifier', backbone=dict(TNT, out_type='cls_token'), head=HEAD))


@pytest.fixture(scope='module')
def mini(tmp_path_factory):
    root = tmp_path_factory.mktemp('mini') / 'data'
    make_mini_dataset(root, images=4, size=(60, 80), seed=0)
    return root / DATA_ROOTS['imagenet']


def test_the_config_measures_the_mini_dataset(mini, tmp_path):
    cfg = load_config(CONFIG, SMALL)
    cfg.test_dataloader.dataset.data_root = str(mini)
    cfg.test_dataloader.batch_size = 2
    cfg.update(work_dir=str(tmp_path), train_dataloader=None, train_cfg=None, optim_wrapper=None, param_scheduler=None)
    cfg.update(val_dataloader=None, val_cfg=None, val_evaluator=None, experiment_name='cam')
    runner = Runner.from_cfg(cfg)
    found = runner.test()
    assert {'accuracy/top1', 'cam/gt_known', 'cam/top1', 'cam/mean_iou'} <= found.keys()
    # The same by hand.
    listed = json.loads((mini / 'boxes.json').read_text())['images']
    ious = []
    for name, entry in listed.items():
        if name.startswith('val/'):
            with Image.open(mini / name) as opened:
                pixels = np.array(opened.convert('RGB').resize((96, 96), Image.Resampling.BICUBIC))
            inputs = torch.from_numpy(pixels.transpose(2, 0, 1))[None].float()
            mean, std = (torch.tensor(cfg.model.data_preprocessor[key])[:, None, None] for key in ('mean', 'std'))
            (cam,) = class_activation_maps(runner.model, (inputs - mean) / std, [entry['label']])
            scale = np.array([entry['width'], entry['height']] * 2) / 96
            ious.append(box_iou(np.array(cam.box) * scale, entry['boxes'][0]))
    assert found['cam/mean_iou'] == pytest.approx(np.mean(ious), abs=0.02)
    assert found['cam/gt_known'] == pytest.approx(100 * np.mean(np.array(ious) >= 0.5), abs=1e-6)


def test_an_image_file_is_explained(mini, tmp_path):
    init_default_scope('mmpretrain')
    cfg = load_config(CONFIG.with_name('nest-mini_1xb8-450_mini-imagenet-96x96.py'), SMALL)
    torch.save({'state_dict': MODELS.build(cfg.model).state_dict()}, tmp_path / 'model.pth')
    predictor = Predictor(cfg, tmp_path / 'model.pth', torch.device('cpu'))
    path = next(mini.glob('val/*/*.JPEG'))
    explainer = explain_cam(predictor, tmp_path, 'c.py', classes=['281', '404'], save_maps=True, edge=120)
    found = explainer.explain(OpenedImage(predictor, path), 'x')
    assert [row['index'] for row in found.facts['classes']] == [281, 404]
    assert all(max(Image.open(file).size) == 120 for _, file in found.pictures)
    assert np.load(found.data[0])['maps'].shape == (2, 96, 96)
    placed = OpenedImage(predictor, path).placed
    (activation,) = class_activation_maps(predictor.model, placed.inputs, [281])
    picture = np.array(draw_activation(placed, activation, edge=240))
    H, W = placed.image.shape[:2]
    left, top, right, bottom = (value * 240 / max(H, W) for value in placed.seen)
    outside = np.ones(picture.shape[:2], dtype=bool)
    outside[max(int(top) - 2, 0) : int(bottom) + 3, max(int(left) - 2, 0) : int(right) + 3] = False
    assert outside.any()
    assert np.ptp(picture[outside].astype(int), -1).max() == 0  # grey
    assert np.ptp(picture[~outside].astype(int), -1).max() > 50
    for options, message in (
        ({'threshold': 1.0}, '--threshold must be a share'),
        ({'top': 0}, '--top must be'),
        ({'rivals': 1000}, '--rivals must be'),
        ({'classes': ['teapto']}, "'teapto' is none of the 1000 classes .* did you mean .*teapot"),
    ):
        with pytest.raises(UserError, match=message):
            explain_cam(predictor, tmp_path, 'c.py', **options)


@pytest.mark.parametrize('classes', [1, 2, 3])
@torch.no_grad()
def test_a_class_is_no_rival_of_its_own_where_there_are_few(classes):
    init_default_scope('mmpretrain')
    head = {**HEAD, 'num_classes': classes}
    torch.manual_seed(0)
    model = MODELS.build(dict(type='mmvit_ext.CAMClassifier', backbone=NEST, neck=GAP, head=head)).eval()
    image = torch.randn(1, 3, 32, 32)
    (logits,), (maps,) = class_maps(model, image)
    others = [maps[label] for label in range(1, classes)]
    expected = maps[0] - (torch.stack(others).mean(0) if others else 0)
    (found,) = class_activation_maps(model, image, [0])
    np.testing.assert_allclose(found.values, upsample_map(expected, (32, 32)), atol=1e-5)
    (sample,) = model(image, mode='predict')
    best = int(logits.argmax())
    rest = [maps[label] for label in range(classes) if label != best]
    torch.testing.assert_close(sample.cam, maps[best] - (torch.stack(rest).mean(0) if rest else 0))
