"""Weights that would not arrive as they are in the file, in every command that loads a checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmvit_ext.checkpoints import reading
from mmvit_ext.checkpoints.convert import convert
from mmvit_ext.checkpoints.formats import load_restricted
from mmvit_ext.checkpoints.reading import extract_state_dict, read_checkpoint
from mmvit_ext.checkpoints.report import check_report, load_weights
from mmvit_ext.checkpoints.safe_loading import safe_loading
from mmvit_ext.errors.user_error import UserError

FAULTS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    'meta': (lambda t: t.to('meta'), 'no values'),
    'csc': (lambda t: t.to_sparse_csc(), 'is sparse'),
    'coo': (lambda t: t.to_sparse(), 'is sparse'),
    'per channel': (
        lambda t: torch.quantize_per_channel(t, torch.ones(len(t)), torch.zeros(len(t)), 0, torch.qint8),
        'is quantised',
    ),
    'one NaN': (lambda t: t.index_fill(0, torch.tensor(1), float('nan')), 'not finite'),
    'infinite': (lambda t: t.double() / 0, 'not finite'),
    'minus infinite': (lambda t: torch.full_like(t, float('-inf')), 'not finite'),
    'half NaN': (lambda t: (t * float('nan')).half(), 'not finite'),
}


class Part(BaseModule):
    """What loads pretrained weights."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.weight = nn.Parameter(torch.zeros(3, 4))


@pytest.fixture(params=FAULTS)
def faulty(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    change, message = FAULTS[request.param]
    torch.save({'state_dict': {'weight': change(torch.ones(3, 4))}}, tmp_path / 'faulty.pth')
    return tmp_path / 'faulty.pth', message


@pytest.mark.parametrize('restricted', [False, True])
def test_a_file_whose_values_cannot_be_used_is_refused_by_every_reader(
    faulty: tuple[Path, str], restricted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, message = faulty
    if restricted:  # as with PyTorch before 2.5
        monkeypatch.setattr(reading, 'load_without_code', load_restricted)
    with pytest.raises(UserError, match=rf'faulty\.pth cannot be used, its parameter weight .*{message}'):
        read_checkpoint(path)
    part = Part(init_cfg={'type': 'Pretrained', 'checkpoint': str(path)})
    with safe_loading(), pytest.raises(UserError, match=message):
        part.init_weights()
    assert not part.weight.any()


def test_masks_of_minus_infinity_and_empty_and_narrow_numbers_are_no_fault(tmp_path: Path) -> None:
    state = {
        'mask': torch.full((4, 4), float('-inf')).triu(1),
        'empty': torch.zeros(0, 3),
        'wide': torch.zeros(1).expand(10**12),
        'float8': torch.ones(3).to(torch.float8_e4m3fn),
        'index': torch.arange(3),
    }
    if torch.__version__.startswith('2.1.'):
        del state['float8']  # it cannot save this kind
    torch.save(state, tmp_path / 'a.pth')
    assert list(read_checkpoint(tmp_path / 'a.pth')) == list(state)


@pytest.mark.parametrize('kind', [torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64])
def test_numbers_of_another_kind_are_named_and_refused_even_for_a_part_of_the_model(kind: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3))
    state = {**model.state_dict(), '1.weight': torch.ones(3, 3).to(kind)}
    report = load_weights(model, state)
    assert len(report.matched) == 3
    assert report.failed[0].startswith('1.weight: ')
    for strict in (False, True):
        with pytest.raises(UserError, match=r'1 not arrived \(1\.weight: (whole|complex) numbers for floating\)'):
            check_report(report, 'a.pth', 'the model', strict=strict)
    with pytest.raises(ValueError, match=r'head\.weight holds .* numbers: expected floating ones'):
        convert({'head.weight': torch.ones(2, 2).to(kind)}, 'nest')


def test_floats_of_every_width_are_the_same_kind() -> None:
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        model = nn.Linear(2, 3)
        report = load_weights(model, {name: value.to(kind) for name, value in nn.Linear(2, 3).state_dict().items()})
        assert report.exact


def test_what_the_model_does_not_hold_afterwards_is_named() -> None:
    """Two parameters of the file that are one in the model, and a model without memory."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    report = load_weights(model, {'0.weight': torch.zeros(2, 2), '1.weight': torch.ones(2, 2)})
    assert report.failed == ('0.weight: the model has other values',)
    assert load_weights(model, {'0.weight': torch.ones(2, 2), '1.weight': torch.ones(2, 2)}).exact
    assert len(load_weights(nn.Linear(2, 2, device='meta'), nn.Linear(2, 2).state_dict()).failed) == 2
    large = load_weights(nn.Linear(1, 1, bias=False), {'weight': torch.tensor([[1e300]], dtype=torch.float64)})
    assert large.failed == ('weight: the model has other values',)
    sparse = load_weights(nn.Linear(3, 3, bias=False), {'weight': torch.eye(3).to_sparse()})
    assert not sparse.matched


def test_two_values_for_a_name_are_refused(tmp_path: Path) -> None:
    state = {'module.weight': torch.zeros(3, 4), 'bias': torch.ones(3), 'weight': torch.ones(3, 4)}
    torch.save({'model': state}, tmp_path / 'a.pth')
    with pytest.raises(UserError, match=r'two values of weight, one with "module\." before the name'):
        read_checkpoint(tmp_path / 'a.pth')
    del state['weight']
    torch.save({'model': state}, tmp_path / 'a.pth')
    assert set(extract_state_dict(read_checkpoint(tmp_path / 'a.pth'), 'a.pth')) == {'weight', 'bias'}


def test_a_resized_embedding_is_loaded_as_it_was_resized() -> None:
    from mmvit_ext.models import ViT

    settings: dict[str, Any] = {'embed_dims': 12, 'num_layers': 1, 'num_heads': 2, 'out_indices': 0}
    report = load_weights(ViT(**settings, img_size=64), ViT(**settings, img_size=(32, 96)).state_dict())
    assert report.exact
    assert report.adapted == ('pos_embed',)


def test_the_parts_of_a_file_that_hold_parameters_are_named(tmp_path: Path) -> None:
    torch.save({'student': {'a': torch.zeros(1)}, 'teacher': {'a': torch.zeros(1)}, 'epoch': 3}, tmp_path / 'a.pth')
    with pytest.raises(UserError, match=r'write one of its parts student, teacher to a file of its own'):
        extract_state_dict(read_checkpoint(tmp_path / 'a.pth'), 'a.pth')
