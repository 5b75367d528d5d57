import copy
import math

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.optim import OptimWrapper
from mmengine.structures import BaseDataElement
from torch import nn

from mmvit_ext.engine.optimizers import MultiOptimWrapperConstructor
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.models.generators.adversarial import AdversarialModel, GeneratorAverage, noise_of, r1_penalty, to_pixels

GENERATOR = dict(
    type='mmvit_ext.NesTGenerator',
    arch=dict(embed_dims=(8, 4), num_heads=(2, 1), depths=(1, 1)),
    noise_dims=5,
)
DISCRIMINATOR = dict(type='mmvit_ext.ConvDiscriminator', embed_dims=(8, 16))


def build(**changes):
    torch.manual_seed(0)
    model = AdversarialModel(**{'generator': GENERATOR, 'discriminator': DISCRIMINATOR, **changes})
    model.init_weights()
    return model.train()


def optimizers(model, lr=1e-2):
    entry = dict(optimizer=dict(type='SGD', lr=lr))
    return MultiOptimWrapperConstructor(ConfigDict(generator=entry, discriminator=entry))(model)


def batch(images=4):
    rng = np.random.default_rng(0)
    return {'inputs': torch.from_numpy(rng.integers(0, 256, (images, 3, 8, 8), dtype=np.uint8))}


def weights(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def changed(module, before):
    return {name for name, value in module.named_parameters() if not torch.equal(value, before[name])}


def test_a_step_updates_both_networks_and_the_mean():
    model = build(average_momentum=0.5)
    wrappers = optimizers(model)
    before = {name: weights(getattr(model, name)) for name in ('generator', 'discriminator', 'average')}
    logged = model.train_step(batch(), wrappers)
    for name, kept in before.items():
        assert changed(getattr(model, name), kept), name
    assert {'loss_discriminator', 'loss_generator', 'loss_r1', 'score_real', 'score_fake', 'loss'} == set(logged)
    assert all(math.isfinite(value) for value in logged.values())
    assert all(p.requires_grad for p in model.discriminator.parameters())


def test_frozen_parts_of_the_discriminator_stay_frozen():
    model = build()
    wrappers = optimizers(model)
    model.discriminator.blocks[0].requires_grad_(False)
    before = weights(model.discriminator)
    for _ in range(2):
        model.train_step(batch(), wrappers)
    frozen = {name for name, p in model.discriminator.named_parameters() if not p.requires_grad}
    assert frozen == {name for name in before if name.startswith('blocks.0.')}
    assert not changed(model.discriminator, before) & frozen


@pytest.mark.parametrize('name', ['generator', 'discriminator'])
def test_each_optimizer_moves_its_own_network_alone(name):
    model = build(average_momentum=0.5)
    wrappers = optimizers(model)
    other = {'generator': 'discriminator', 'discriminator': 'generator'}[name]
    for group in wrappers[other].optimizer.param_groups:
        group['lr'] = 0.0
    before = weights(getattr(model, name)), weights(getattr(model, other))
    model.train_step(batch(), wrappers)
    assert changed(getattr(model, name), before[0])
    assert not changed(getattr(model, other), before[1])


class Scores(nn.Module):
    """Score of an image: a times the mean of its pixels."""

    def __init__(self, slope):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(float(slope)))

    def forward(self, img):
        return self.slope * img.mean((1, 2, 3))


class Grey(nn.Module):
    """Images of one value, whatever the noise."""

    noise_dims, img_size = 5, 8

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(float(value)))

    def forward(self, noise):
        return self.value.expand(len(noise), 3, 8, 8)


def by_hand(slope, value, **changes):
    model = build(**changes)
    model.generator, model.discriminator = Grey(value), Scores(slope)
    model.average = GeneratorAverage(model.generator, 0.25)
    return model


def test_losses_of_two_numbers_are_those_worked_out_by_hand():
    """Scores s x with s = 2: white images have 2, grey ones of 0.25 have 0.5; hinge 0 + 1.5; the gradient has length
    s / sqrt(192) (192 pixels), so that the penalty is 10 / 2 * 4 / 192.
    """
    model = by_hand(2.0, 0.25)
    white = {'inputs': torch.full((3, 3, 8, 8), 255, dtype=torch.uint8)}
    logged = model.train_step(white, optimizers(model, lr=0.1))
    assert logged['score_real'] == pytest.approx(2.0)
    assert logged['score_fake'] == pytest.approx(0.5)
    assert logged['loss_discriminator'] == pytest.approx(1.5)
    assert logged['loss_r1'] == pytest.approx(5 * 4 / 192)
    slope = 2 - 0.1 * (0.25 + 5 * 2 * 2 / 192)  # hinge of the grey images, and the penalty
    assert model.discriminator.slope.item() == pytest.approx(slope)
    assert logged['loss_generator'] == pytest.approx(-slope * 0.25)
    assert model.generator.value.item() == pytest.approx(0.25 + 0.1 * slope)


def test_the_mean_goes_its_share_of_the_way_after_a_first_copy():
    model = by_hand(2.0, 0.25)
    wrappers = optimizers(model, lr=0.1)
    seen, mean = [], None
    for _ in range(3):
        model.train_step(batch(), wrappers)
        value = model.generator.value.item()
        mean = value if mean is None else 0.75 * mean + 0.25 * value
        seen.append((model.average.module.value.item(), mean))
    for found, expected in seen:
        assert found == pytest.approx(expected)


def test_the_mean_follows_the_model_to_another_type():
    """Moving a model replaces its tensors; the mean must not go on with the old ones."""
    model = build(average_momentum=0.5).double()
    before = weights(model.average)
    model.average.update_parameters(model.generator)
    with torch.no_grad():
        for parameter in model.generator.parameters():
            parameter += 1
    model.average.update_parameters(model.generator)
    assert changed(model.average, before) == set(before)


def test_the_mean_takes_the_statistics_of_norms_along():
    convolutional = dict(type='mmvit_ext.ConvGenerator', embed_dims=(16, 8), noise_dims=5, attention_level=None)
    model = build(generator=convolutional, average_momentum=0.5)
    wrappers = optimizers(model)
    means = []
    for _ in range(2):
        model.train_step(batch(), wrappers)
        means.append(model.generator.norm.running_mean.clone())
    torch.testing.assert_close(model.average.module.norm.running_mean, (means[0] + means[1]) / 2)


def test_untrained_images_are_those_of_the_untrained_generator():
    model = build()
    noise = torch.randn(2, 5)
    assert torch.equal(model.eval()(noise), model.generator.eval()(noise))


def test_the_mean_stays_in_evaluation_mode():
    assert not any(module.training for module in build().train().average.modules())


def test_penalty_comes_every_few_steps_and_counts_as_many_times():
    once, lazily = build(r1_interval=1), build(r1_interval=3)
    wrappers = optimizers(lazily)
    torch.manual_seed(0)
    logged = [lazily.train_step(batch(), wrappers) for _ in range(4)]
    assert ['loss_r1' in entry for entry in logged] == [True, False, False, True]
    torch.manual_seed(0)
    expected = 3 * once.train_step(batch(), optimizers(once))['loss_r1'].item()
    assert logged[0]['loss_r1'].item() == pytest.approx(expected, rel=1e-4)
    without = build(r1_weight=0)
    assert 'loss_r1' not in without.train_step(batch(), optimizers(without))


def test_penalty_of_a_quadratic_form_is_the_one_worked_out():
    """Score x^T A x of vectors: gradient (A + A^T) x, and the penalty can be differentiated by A."""
    matrix = torch.tensor([[1.0, 2.0], [0.0, 3.0]], dtype=torch.double, requires_grad=True)
    vectors = torch.tensor([[1.0, 0.0], [1.0, -1.0], [0.0, 2.0]], dtype=torch.double, requires_grad=True)
    penalty = r1_penalty(torch.einsum('bi,ij,bj->b', vectors, matrix, vectors), vectors)
    # Gradients (2, 2), (0, -4), (4, 12): squares 8, 16, 160.
    assert penalty.item() == pytest.approx(184 / 3)
    (slope,) = torch.autograd.grad(penalty, matrix)
    assert slope[0, 0].item() == pytest.approx((8 + 0 + 0) / 3)  # sum of 4 x_0 g_0 over the vectors, over 3


def test_evaluation_gives_each_real_image_its_own_generated_ones():
    model = build(fakes_per_image=2).eval()
    samples = [BaseDataElement(metainfo=dict(sample_idx=index)) for index in (4, 1)]
    data = {'inputs': batch(2)['inputs'], 'data_samples': samples}
    first, second = model.val_step(data)
    assert torch.equal(first.real_img, data['inputs'][0].flip(0))  # files are BGR
    assert first.fake_imgs.shape == (2, 3, 8, 8)
    assert first.fake_imgs.dtype == torch.uint8
    alone = model.val_step({'inputs': data['inputs'][1:], 'data_samples': samples[1:]})[0]
    assert torch.equal(alone.fake_imgs, second.fake_imgs)  # whatever the batch
    expected = model.sample(noise_of(0, [8, 9], 5))
    assert torch.equal(first.fake_imgs, expected)


def test_evaluation_takes_no_random_number_of_the_training():
    model = build().eval()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    model.val_step({'inputs': batch(2)['inputs'], 'data_samples': None})
    assert torch.equal(torch.rand(2), expected)


def test_noise_depends_on_seed_and_number_alone():
    five = noise_of(3, range(5), 7)
    assert torch.equal(noise_of(3, [4, 2], 7), five[[4, 2]])
    assert len({tuple(row) for row in torch.cat([five, noise_of(4, range(5), 7)]).tolist()}) == 10
    many = noise_of(0, range(2000), 7)
    assert many.mean().abs() < 0.05
    assert many.std().item() == pytest.approx(1, abs=0.05)
    assert noise_of(0, [], 7).shape == (0, 7)


def test_pixels_are_rounded_and_cut():
    values = torch.tensor([-1.0, 1.0, 0.0, 2.0, -3.0, 1 / 255])
    assert to_pixels(values).tolist() == [0, 255, 128, 255, 0, 128]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'r1_weight': -1.0}, 'r1_weight must not be negative'),
        ({'r1_interval': 0}, 'r1_interval at least 1'),
        ({'average_momentum': 0.0}, 'average_momentum must be above 0'),
        ({'fakes_per_image': 0}, 'fakes_per_image must be at least 1'),
        ({'seed': -1}, 'seed 0 or more'),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_losses_outside_of_a_training_step_are_refused():
    with pytest.raises(ValueError, match='train_step computes the losses'):
        build()(batch()['inputs'], mode='loss')


def test_optimizers_are_of_the_parts_they_are_named_after():
    model = build()
    wrappers = optimizers(model)
    for name in ('generator', 'discriminator'):
        assert isinstance(wrappers[name], OptimWrapper)
        held = {id(p) for group in wrappers[name].optimizer.param_groups for p in group['params']}
        assert held == {id(p) for p in getattr(model, name).parameters()}


@pytest.mark.parametrize(
    ('entries', 'paramwise', 'message'),
    [
        (dict(critic=dict(optimizer=dict(type='SGD', lr=1))), None, 'critic names no part .* generator, discriminator'),
        (dict(generator=dict(type='SGD', lr=1)), None, 'optim_wrapper.generator is .*: expected'),
        (dict(generator=dict(optimizer=dict(type='SGD', lr=1))), dict(bias_lr_mult=2), 'generator.paramwise_cfg'),
    ],
)
def test_wrong_optimizers_are_named(entries, paramwise, message):
    with pytest.raises(UserError, match=message):
        MultiOptimWrapperConstructor(ConfigDict(entries), paramwise)(build())


def test_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped():
    model = build(r1_interval=2)
    wrappers = optimizers(model)
    model.train_step(batch(), wrappers)
    resumed = build(r1_interval=2)
    resumed.load_state_dict(copy.deepcopy(model.state_dict()))
    logged = []
    for network in (model, resumed):
        torch.manual_seed(5)
        logged.append(network.train_step(batch(), optimizers(network)))
    assert logged[0] == logged[1]
    assert 'loss_r1' not in logged[1]
