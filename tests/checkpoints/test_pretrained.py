"""What the weights report counts, and that it sees what really reaches a model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.runner.checkpoint import load_checkpoint
from torch import nn

from mmvit_ext.checkpoints.report import LoadObserver, WeightsReport, check_report, load_weights, weights_report
from mmvit_ext.errors.user_error import UserError


class Resizing(nn.Module):
    """Cuts a longer embedding to its own length while it loads, as backbones do with position embeddings."""

    def __init__(self, length: int = 3) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(length))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        state_dict[f'{prefix}embedding'] = state_dict[f'{prefix}embedding'][: len(self.embedding)]
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class Renaming(nn.Module):
    """Takes a parameter by its old name, too."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        if f'{prefix}old' in state_dict:
            state_dict[f'{prefix}weight'] = state_dict.pop(f'{prefix}old')
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class Net(BaseModule):
    def __init__(self, init_cfg: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.backbone = Part(init_cfg)
        self.head = nn.Linear(2, 5)


class Part(BaseModule):
    def __init__(self, init_cfg: dict[str, Any] | None = None) -> None:
        super().__init__(init_cfg)
        self.layer = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)
        self.position = Resizing()


def observed(model: nn.Module) -> tuple[LoadObserver, list[tuple[str, WeightsReport]]]:
    seen: list[tuple[str, WeightsReport]] = []
    return LoadObserver(model, lambda name, module, report: seen.append((name, report))), seen


def test_the_report_sorts_every_name_into_one_group() -> None:
    report = weights_report(
        {'a': torch.zeros(2), 'b': torch.zeros(2, 3), 'c': torch.zeros(1), 'bn.num_batches_tracked': torch.tensor(0)},
        {'a': torch.ones(2), 'b': torch.zeros(3, 2), 'd': torch.zeros(1), 'iteration': 7},
    )
    assert report == WeightsReport(
        matched=('a',), missing=('c',), unexpected=('d',), mismatched=(('b', (3, 2), (2, 3)),)
    )
    assert report.total == 3
    assert report.fraction == pytest.approx(1 / 3)
    assert (
        str(report) == '1 of 3 parameters matched, 1 missing (c), 1 unexpected (d), 1 of another shape (b 3x2 for 2x3)'
    )


def test_only_the_first_names_are_written_out() -> None:
    report = weights_report({}, {f'name{index}': (1,) for index in range(9)})
    assert '9 unexpected (name0, name1, name2, ...)' in str(report)


def test_a_resized_embedding_counts_as_matched() -> None:
    state = Net().state_dict()
    state['backbone.position.embedding'] = torch.ones(7)
    report = load_weights(Net(), state)
    assert report.exact
    assert report.adapted == ('backbone.position.embedding',)


def test_a_parameter_that_the_model_renames_itself_is_neither_missing_nor_unexpected() -> None:
    model = nn.Sequential(Renaming(), nn.Sequential(Renaming()))
    report = load_weights(model, {'0.old': torch.ones(2), '1.0.old': torch.ones(2), '1.0.new': torch.ones(2)})
    assert report.matched == ('0.weight', '1.0.weight')
    assert report.unexpected == ('1.0.new',)
    assert model[0].weight.tolist() == [1, 1]


def test_what_the_report_calls_matched_is_loaded_and_the_rest_untouched() -> None:
    model, source = Net(), Net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = {name: value + 1 for name, value in source.state_dict().items()}
    del state['backbone.layer.bias']
    state['head.weight'] = torch.zeros(9, 2)
    report = load_weights(model, state)
    after = model.state_dict()
    for name in report.matched:
        assert torch.equal(after[name], state[name])
    for name in ('backbone.layer.bias', 'head.weight'):
        assert torch.equal(after[name], before[name])
    assert report.missing == ('backbone.layer.bias',)
    assert report.mismatched == (('head.weight', (9, 2), (5, 2)),)


def test_the_loading_of_init_cfg_is_seen_with_its_prefix(tmp_path: Path) -> None:
    state = {f'encoder.{name}': value for name, value in Part().state_dict().items()}
    del state['encoder.layer.weight']
    torch.save({'state_dict': state}, tmp_path / 'part.pth')
    model = Net({'type': 'Pretrained', 'checkpoint': str(tmp_path / 'part.pth'), 'prefix': 'encoder.'})
    observer, seen = observed(model)
    model.init_weights()
    observer.close()
    assert [name for name, _ in seen] == ['backbone']
    assert seen[0][1].missing == ('layer.weight',)
    assert not seen[0][1].unexpected


def test_the_loading_of_a_whole_checkpoint_is_seen_once(tmp_path: Path) -> None:
    torch.save({'state_dict': Net().state_dict()}, tmp_path / 'net.pth')
    model = Net()
    observer, seen = observed(model)
    load_checkpoint(model, str(tmp_path / 'net.pth'))
    assert [(name, report.exact) for name, report in seen] == [('', True)]
    observer.close()
    load_checkpoint(model, str(tmp_path / 'net.pth'))
    assert len(seen) == 1


def test_pytorchs_own_loading_is_seen() -> None:
    model = Net()
    observer, seen = observed(model)
    model.backbone.layer.load_state_dict({'weight': torch.zeros(2, 2)}, strict=False)
    observer.close()
    assert [(name, report.missing) for name, report in seen] == [('backbone.layer', ('bias',))]


def test_half_is_enough_for_pretrained_weights_and_all_for_a_checkpoint() -> None:
    half = weights_report({'a': (1,), 'b': (1,)}, {'a': (1,)})
    check_report(half, 'x.pth', 'the backbone', strict=False)
    with pytest.raises(UserError, match=r'x.pth does not fit the backbone: 1 of 2 .* 1 missing \(b\).*all of them'):
        check_report(half, 'x.pth', 'the backbone', strict=True)
    less = weights_report({'a': (1,), 'b': (1,), 'c': (1,)}, {'a': (1,)})
    with pytest.raises(UserError, match='at least half'):
        check_report(less, 'x.pth', 'the backbone', strict=False)
    check_report(less, 'x.pth', 'the backbone', strict=True, allow_partial=True)
    left = weights_report({'a': (1,)}, {'a': (1,), 'b': (1,)})
    with pytest.raises(UserError, match=r'1 unexpected \(b\)'):
        check_report(left, 'x.pth', 'the model', strict=True)
