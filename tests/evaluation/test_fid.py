from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope
from scipy.linalg import sqrtm

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.evaluation.fid import FID, fid, frechet_distance

pytest.importorskip('mmpretrain')

CLASSIFIER = """
default_scope = 'mmpretrain'
img_size = 24
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(type='ClsDataPreprocessor', mean=[100, 110, 120], std=[50, 60, 70], to_rgb={to_rgb}),
    backbone=dict(
        type='mmvit_ext.NesT',
        arch=dict(embed_dims=(8, 12), num_heads=(2, 3), depths=(1, 1)),
        img_size=img_size,
        block_size=3,
        out_indices=-1,
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=3, in_channels=12),
)
test_dataloader = dict(
    dataset=dict(type='CustomDataset', pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')])
)
"""


@pytest.fixture
def classifier(tmp_path):
    """Config and checkpoint of a small classifier, and the classifier itself."""
    from mmpretrain.registry import MODELS

    def write(name='classifier', to_rgb=True):
        config = tmp_path / f'{name}.py'
        config.write_text(CLASSIFIER.format(to_rgb=to_rgb))
        init_default_scope('mmpretrain')
        torch.manual_seed(0)
        model = MODELS.build(Config.fromfile(config).model).eval()
        model.init_weights()
        checkpoint = tmp_path / f'{name}.pth'
        torch.save({'state_dict': model.state_dict()}, checkpoint)
        return str(config), str(checkpoint), model

    return write


def moments(dims, rows, seed):
    features = torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, dims)) @ np.diag(range(1, dims + 1)))
    return features, features.mean(0), torch.cov(features.T)


def test_distance_of_known_normal_distributions_equals_scipy():
    _, mean, covariance = moments(7, 50, 0)
    _, other_mean, other_covariance = moments(7, 31, 1)
    root = sqrtm(covariance.numpy() @ other_covariance.numpy())
    expected = (mean - other_mean).square().sum() + torch.trace(covariance + other_covariance) - 2 * root.real.trace()
    found = frechet_distance(mean, covariance, other_mean, other_covariance)
    assert found == pytest.approx(expected.item(), rel=1e-9)


def test_distance_of_diagonal_covariances_is_the_closed_form():
    """Sum over the axes of the squared differences of means and of standard deviations."""
    one, other = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 7.0])
    distance = frechet_distance(torch.zeros(3), one.square().diag(), torch.tensor([3.0, 0, 4]), other.square().diag())
    assert distance == pytest.approx(9 + 16 + 1 + 0 + 16)


def test_distance_is_symmetric_and_does_not_change_when_both_are_turned():
    _, mean, covariance = moments(5, 40, 0)
    _, other_mean, other_covariance = moments(5, 40, 1)
    expected = frechet_distance(mean, covariance, other_mean, other_covariance)
    assert frechet_distance(other_mean, other_covariance, mean, covariance) == pytest.approx(expected)
    turn = torch.linalg.qr(torch.randn(5, 5, dtype=torch.double, generator=torch.Generator().manual_seed(0)))[0]
    turned = [turn @ mean, turn @ covariance @ turn.T, turn @ other_mean, turn @ other_covariance @ turn.T]
    assert frechet_distance(*turned) == pytest.approx(expected)


def test_a_set_has_no_distance_from_itself():
    features, *_ = moments(7, 50, 0)
    assert fid(features, features) == pytest.approx(0, abs=1e-9)


def test_fewer_images_than_features_are_no_obstacle():
    """Covariances of rank 4 in 11 dimensions; scipy needs a small diagonal there."""
    features, mean, covariance = moments(11, 5, 0)
    other, other_mean, other_covariance = moments(11, 5, 1)
    offset = 1e-7 * torch.eye(11, dtype=torch.double)
    root = sqrtm(((covariance + offset) @ (other_covariance + offset)).numpy()).real
    expected = (mean - other_mean).square().sum() + torch.trace(covariance + other_covariance) - 2 * root.trace()
    assert fid(features, other) == pytest.approx(expected.item(), rel=1e-3)


def test_distance_of_sets_uses_unbiased_covariances():
    features, other = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0], [3.0]])
    assert fid(features, other) == pytest.approx((1 - 3) ** 2 + (2**0.5 - 4**0.5) ** 2)


def test_one_image_has_no_covariance():
    with pytest.raises(ValueError, match='at least 2 images of each kind, got 1 and 5'):
        fid(torch.zeros(1, 2), torch.zeros(5, 2))


def samples(count=6, fakes=2, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {
            'real_img': torch.from_numpy(rng.integers(0, 256, (3, 9, 9), dtype=np.uint8)),
            'fake_imgs': torch.from_numpy(rng.integers(0, 100, (fakes, 3, 9, 9), dtype=np.uint8)),
        }
        for _ in range(count)
    ]


def test_images_reach_the_classifier_as_its_own_pipeline_gives_them(classifier):
    """Resized, and normalised as RGB: mean and deviation in that order."""
    config, checkpoint, model = classifier()
    images = torch.stack([sample['real_img'] for sample in samples()])
    metric = FID(config, checkpoint)
    resized = torch.nn.functional.interpolate(images.float(), (24, 24), mode='bilinear', antialias=True)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ([100.0, 110, 120], [50.0, 60, 70]))
    with torch.no_grad():
        expected = model.backbone((resized.clamp(0, 255) - mean) / std)[0].mean((2, 3))
    torch.testing.assert_close(metric.features(images), expected)
    as_it_comes = FID(*classifier('plain', to_rgb=False)[:2])
    torch.testing.assert_close(as_it_comes.features(images), expected)


def test_metric_is_the_distance_of_all_images_whatever_the_batches(classifier):
    config, checkpoint, _ = classifier()
    data = samples()
    found = []
    for sizes in ((6,), (1, 3, 2)):
        metric, start = FID(config, checkpoint), 0
        for size in sizes:
            metric.process({}, data[start : start + size])
            start += size
        found.append(metric.evaluate(6)['FID'])
    real = metric.features(torch.stack([sample['real_img'] for sample in data]))
    fakes = metric.features(torch.cat([sample['fake_imgs'] for sample in data]))
    assert found == pytest.approx([fid(real, fakes)] * 2, rel=1e-4)


def test_mirror_images_count_as_real_ones(classifier):
    config, checkpoint, _ = classifier()
    data = samples()
    metric = FID(config, checkpoint, mirror=True)
    metric.process({}, data)
    images = torch.stack([sample['real_img'] for sample in data])
    real = metric.features(torch.cat([images, images.flip(3)]))
    fakes = metric.features(torch.cat([sample['fake_imgs'] for sample in data]))
    assert metric.evaluate(6)['FID'] == pytest.approx(fid(real, fakes), rel=1e-4)


def test_the_scope_of_the_run_stays(classifier):
    config, checkpoint, _ = classifier()
    DefaultScope._instance_dict.clear()
    DefaultScope.get_instance('run', scope_name='mmengine')
    FID(config, checkpoint).features(samples()[0]['fake_imgs'])
    assert DefaultScope.get_current_instance().scope_name == 'mmengine'


def test_another_size_can_be_asked_for(classifier):
    config, checkpoint, _ = classifier()
    images = samples()[0]['fake_imgs']
    assert not torch.allclose(
        FID(config, checkpoint).features(images), FID(config, checkpoint, input_size=12).features(images)
    )


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (('img_size = 24', 'img_size = [24, 24]'), 'no img_size: give the edge in pixels as FID.input_size'),
        (
            ("default_scope = 'mmpretrain'", "default_scope = 'mmseg'"),
            'expected the config of an mmpretrain classifier',
        ),
    ],
)
def test_a_config_that_is_of_no_use_is_named(classifier, change, message):
    config, checkpoint, _ = classifier()
    Path(config).write_text(Path(config).read_text().replace(*change).replace('img_size=img_size', 'img_size=24'))
    with pytest.raises(UserError, match=message):
        FID(config, checkpoint).features(samples()[0]['fake_imgs'])


def test_a_missing_checkpoint_is_named(classifier, tmp_path):
    config, _, _ = classifier()
    with pytest.raises(UserError, match=r'there is no checkpoint .*absent\.pth'):
        FID(config, str(tmp_path / 'absent.pth')).features(samples()[0]['fake_imgs'])
