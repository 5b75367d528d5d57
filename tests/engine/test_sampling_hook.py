from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mmvit_ext.engine.hooks.drawing import SampleHook
from mmvit_ext.errors.user_error import UserError


class Numbers(nn.Module):
    """Images whose red is 1 for every noise vector that begins with a positive number."""

    noise_dims = 3

    def sample(self, noise):
        images = torch.zeros(len(noise), 3, 2, 4, dtype=torch.uint8)
        images[:, 0] = (noise[:, 0] > 0)[:, None, None]
        return images


class Run:
    """What a hook sees of a run."""

    def __init__(self, model):
        self.model, self.iter, self.epoch, self.pictures = model, 0, 0, {}
        self.train_dataloader = [None] * 3
        self.visualizer = SimpleNamespace(
            add_image=lambda name, image, step: self.pictures.update({(name, step): image})
        )


def test_hook_draws_the_same_noise_before_training_and_at_every_interval():
    run, hook = Run(Numbers()), SampleHook(interval=2, num=70, columns=10)
    hook.before_train(run)
    for iteration in range(4):
        run.iter = iteration
        hook.after_train_iter(run, 0)
        hook.after_train_epoch(run)
    assert list(run.pictures) == [('samples', 0), ('samples', 2), ('samples', 4)]
    first, *others = run.pictures.values()
    assert first.shape == (7 * 4 + 2, 10 * 6 + 2, 3)
    assert 0 < (first[..., 0] == 1).sum() < 70 * 8
    assert all(np.array_equal(first, other) for other in others)


def test_hook_counts_epochs_when_told():
    run, hook = Run(Numbers()), SampleHook(interval=2, by_epoch=True, num=1)
    hook.before_train(run)
    for epoch in range(4):
        run.epoch = epoch
        hook.after_train_iter(run, 1)
        hook.after_train_epoch(run)
    assert [step for _, step in run.pictures] == [0, 2, 4]


def test_another_seed_gives_another_grid():
    pictures = []
    for seed in (0, 1):
        run = Run(Numbers())
        SampleHook(num=30, seed=seed).before_train(run)
        pictures += run.pictures.values()
    assert not np.array_equal(*pictures)


def test_a_model_that_generates_nothing_is_refused():
    with pytest.raises(UserError, match=r'Linear generates nothing: use it with mmvit_ext\.AdversarialModel'):
        SampleHook().before_train(Run(nn.Linear(1, 1)))


@pytest.mark.parametrize('options', [{'interval': 0}, {'num': 0}, {'columns': 0}, {'seed': -1}])
def test_wrong_arguments_are_named(options):
    with pytest.raises(ValueError, match='must be at least 1'):
        SampleHook(**options)
