"""What the commands set for a GPU, with PyTorch's questions for one answered by the test."""

import os
from typing import Any

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmvit_ext.config import adjust
from mmvit_ext.engine.hooks.seeded_loading import capture_state, restore_state
from mmvit_ext.engine.training import _deterministic
from mmvit_ext.errors import UserError
from mmvit_ext.inference.speed import speed_up
from mmvit_ext.machine import float32_products


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)


@pytest.mark.parametrize(('tf32', 'expected'), [(True, ('high', True)), (False, ('highest', False))])
def test_float32_is_multiplied_as_asked_and_as_before_afterwards(
    tf32: bool, expected: tuple[str, bool], gpu: None
) -> None:
    def found() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = found()
    with float32_products(tf32=tf32):
        assert found() == expected
    assert found() == before


def test_without_a_gpu_nothing_is_set() -> None:
    before = torch.get_float32_matmul_precision()
    with float32_products(tf32=True):
        assert torch.get_float32_matmul_precision() == before


def test_an_operation_that_is_not_deterministic_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', 'removed again, so that it is restored in the end')
    monkeypatch.delenv('CUBLAS_WORKSPACE_CONFIG')
    text = 'adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set ...'
    strict = Config({'randomness': {'deterministic': True}})
    expected = (
        'adaptive_avg_pool2d_backward_cuda has no deterministic form on a GPU: set randomness.deterministic=False'
    )
    with pytest.raises(UserError, match=expected), _deterministic(strict):
        raise RuntimeError(text)
    assert os.environ['CUBLAS_WORKSPACE_CONFIG'] == ':4096:8'
    with pytest.raises(RuntimeError, match='something else'), _deterministic(strict):
        raise RuntimeError('something else')
    with pytest.raises(RuntimeError, match='does not have'), _deterministic(Config({})):
        raise RuntimeError(text)


def test_the_generators_of_all_gpus_are_restored(monkeypatch: pytest.MonkeyPatch, gpu: None) -> None:
    states = [torch.tensor([1]), torch.tensor([2])]
    restored: dict[Any, int] = {}
    monkeypatch.setattr(torch.cuda, 'get_rng_state_all', lambda: states)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(torch.cuda, 'set_rng_state', lambda state, device='cuda': restored.update({device: int(state)}))
    state = capture_state()
    restore_state(state)
    assert restored == {0: 1, 1: 2}
    restored.clear()
    restore_state({**state, 'cuda': torch.tensor([7])})
    assert restored == {'cuda': 7}, 'an older checkpoint has the state of one'
    restored.clear()
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    restore_state(state)
    assert restored == {0: 1}, 'fewer GPUs than before'


class Model(nn.Module):
    """A backbone, a neck and a head that note the types they compute in."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.neck, self.head = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)
        self.types: list[torch.dtype] = []
        for part in (self.backbone, self.neck, self.head):
            part.register_forward_hook(lambda module, args, output: self.types.append(args[0].dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.neck(self.backbone(x)))
        return found


def test_backbone_and_neck_compute_in_mixed_precision_and_give_float32() -> None:
    model, x = Model(), torch.randn(7, 3)
    full = model(x)
    speed_up(model, torch.device('cpu'), amp=True)
    half = model(x)
    assert half.dtype == torch.float32
    assert not torch.equal(half, full)
    torch.testing.assert_close(half, full, rtol=0.02, atol=0.02)
    assert model.types == [torch.float32] * 6


class Pyramid(nn.Module):
    """A backbone with several outputs, of which one is not floating."""

    class Backbone(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return [(x @ x, torch.tensor(1)), {'a': x @ x}]

    def __init__(self) -> None:
        super().__init__()
        self.backbone = self.Backbone()


def test_every_output_is_widened() -> None:
    model = Pyramid()
    speed_up(model, torch.device('cpu'), amp=True)
    (first, count), named = model.backbone(torch.eye(3))
    assert [first.dtype, count.dtype, named['a'].dtype] == [torch.float32, torch.int64, torch.float32]


def test_a_backbone_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(torch, 'compile', lambda function: compiled.append(function) or function)
    model = Model()
    speed_up(model, torch.device('cpu'), compile=True)
    assert len(compiled) == 1
    for options in ({'amp': True}, {'compile': True}):
        with pytest.raises(UserError, match=f'--{next(iter(options))} is for models with a backbone, Linear has none'):
            speed_up(nn.Linear(2, 2), torch.device('cpu'), **options)


PREPROCESSOR = {'type': 'SegDataPreProcessor', 'seg_pad_val': 255}


@pytest.mark.parametrize(
    ('scope', 'preprocessor', 'collation'),
    [
        ('mmseg', PREPROCESSOR, 'mmvit_ext.collate_labels'),
        ('mmseg', {**PREPROCESSOR, 'seg_pad_val': 0}, None),
        ('mmseg', {**PREPROCESSOR, 'batch_augments': [{'type': 'x'}]}, None),
        ('mmseg', {**PREPROCESSOR, 'type': 'Other'}, None),
        ('mmdet', {'type': 'DetDataPreprocessor'}, None),
        ('mmpretrain', {}, 'default_collate'),
    ],
)
def test_loaders_pin_memory_and_note_classes(
    scope: str, preprocessor: dict[str, Any], collation: str | None, gpu: None
) -> None:
    cfg = Config({'default_scope': scope, 'model': {'data_preprocessor': preprocessor}, 'train_dataloader': {}})
    adjust.prepare_loaders(cfg)
    assert cfg.train_dataloader.pin_memory is True
    assert (cfg.train_dataloader.get('collate_fn') or {}).get('type') == collation
    given = Config({'default_scope': scope, 'model': {}, 'train_dataloader': {'pin_memory': False, 'collate_fn': 'x'}})
    adjust.prepare_loaders(given)
    assert given.train_dataloader == {'pin_memory': False, 'collate_fn': 'x'}
