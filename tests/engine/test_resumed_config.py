"""A resumed run follows its own config: what differs is said, rates are those of its schedule, the rest is refused."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict, PolyLR
from mmengine.runner import Runner

from mmvit_ext.engine.hooks import resumed_config
from mmvit_ext.engine.hooks.resumed_config import config_differences, read_config_text
from mmvit_ext.errors import UserError
from tests.engine import toy_run


class Watch(Hook):
    """Keeps the options that the optimizer has in each iteration."""

    def __init__(self) -> None:
        self.options: dict[int, list[tuple[Any, ...]]] = {}

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        groups = runner.optim_wrapper.param_groups
        names = ('lr', 'weight_decay', 'betas')
        self.options[runner.iter + 1] = [tuple(group[name] for name in names) for group in groups]


def run(folder: Path, changes: dict[str, Any], **options: Any) -> dict[int, list[tuple[Any, ...]]]:
    """Train in this process with entries of the config replaced; the options of the optimizer by iteration."""
    torch.set_num_threads(1)
    cfg = toy_run.toy_config(folder, **options)
    cfg.default_hooks.pop('preemption')
    cfg.merge_from_dict(changes)
    for key, value in changes.items():
        if isinstance(value, list):
            cfg[key] = value
    runner, watch = Runner.from_cfg(cfg), Watch()
    runner.register_hook(watch)
    runner.train()
    return watch.options


def poly(end: int, **more: Any) -> dict[str, Any]:
    return {'type': 'PolyLR', 'power': 1.0, 'by_epoch': False, 'begin': 0, 'end': end, **more}


WARM = {'type': 'LinearLR', 'start_factor': 0.1, 'by_epoch': False, 'begin': 0, 'end': 3}
COSINE = {'type': 'CosineAnnealingLR', 'by_epoch': False, 'begin': 3}
STEPS = {'type': 'MultiStepLR', 'by_epoch': True, 'gamma': 0.5}
WAVE = {'type': 'CosineAnnealingLR', 'eta_min': 1e-3, 'begin': 0, 'convert_to_iter_based': True}
MOMENTUM = {'type': 'LinearMomentum', 'start_factor': 0.5, 'by_epoch': False, 'begin': 0}
GROUPS = {'optim_wrapper.paramwise_cfg': {'custom_keys': {'first': {'lr_mult': 0.1}}}}


@pytest.mark.parametrize(
    ('old', 'new', 'length'),
    [
        ({'param_scheduler': [poly(4)]}, {'param_scheduler': [poly(9)]}, {'iterations': 9}),
        ({'param_scheduler': []}, {'param_scheduler': [], 'optim_wrapper.optimizer.lr': 0.3}, {'iterations': 6}),
        (
            {'param_scheduler': [poly(4)], **GROUPS},
            {'param_scheduler': [WARM, {**COSINE, 'end': 8, 'T_max': 5}], 'optim_wrapper.optimizer.weight_decay': 0.3}
            | GROUPS,
            {'iterations': 8},
        ),
        (
            {'param_scheduler': [WARM, {**STEPS, 'milestones': [1]}]},
            {'param_scheduler': [WARM, {**STEPS, 'milestones': [1, 2]}], 'optim_wrapper.optimizer.lr': 0.07},
            {'epochs': 3},
        ),
        (
            {'param_scheduler': [{**WAVE, 'end': 2, 'T_max': 2}]},
            {'param_scheduler': [{**WAVE, 'end': 3, 'T_max': 3}, {**MOMENTUM, 'end': 18}]},
            {'epochs': 3},
        ),
    ],
)
def test_the_rates_are_those_of_a_run_with_the_new_config(
    tmp_path: Path, old: dict[str, Any], new: dict[str, Any], length: dict[str, int]
) -> None:
    start = {'epochs': 2} if 'epochs' in length else {'iterations': 4}
    whole = run(tmp_path / 'whole', new, **length)
    done = run(tmp_path / 'halves', old, keep=9, **start)
    rest = run(tmp_path / 'halves', new, keep=9, resume=True, **length)
    assert sorted(rest) == sorted(set(whole) - set(done))
    assert rest == {number: whole[number] for number in rest}
    assert all(rate > 0 for rate, *_ in rest[min(rest)])
    names = ('epoch_2.pth', 'epoch_3.pth') if 'epochs' in length else ('iter_4.pth', f'iter_{max(rest)}.pth')
    before, after = (toy_run.weights(tmp_path / 'halves', name) for name in names)
    assert not torch.equal(before['last.weight'], after['last.weight'])


def test_differences_are_said_and_nothing_where_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr('mmengine.logging.MMLogger.callHandlers', lambda _, record: said.append(record.getMessage()))
    monkeypatch.setattr(logging.Logger, 'isEnabledFor', lambda _, level: level >= logging.WARNING)
    run(tmp_path / 'run', {}, iterations=3)
    said.clear()
    run(tmp_path / 'run', {}, iterations=3, resume=True)
    assert not [line for line in said if 'differs' in line]
    assert [line for line in said if 'iteration 3' in line and 'nothing is left' in line]
    said.clear()
    changes = {'param_scheduler': [poly(6)], 'train_dataloader.batch_size': 2}
    run(tmp_path / 'run', changes, iterations=6, resume=True)
    text = '\n'.join(said)
    assert 'train_cfg.max_iters: 3 -> 6' in text
    assert 'train_dataloader.batch_size: 5 -> 2' in text
    assert 'param_scheduler.0.end: 40 -> 6' in text
    assert 'total batch size 5' in text
    assert 'now it is a total batch size 2' in text
    assert 'every learning rate is 0' not in text
    said.clear()
    run(tmp_path / 'run', changes, iterations=8, resume=True)
    assert 'every learning rate is 0 at iteration 6 of 8' in '\n'.join(said)


PLATEAU = {'type': 'ReduceOnPlateauLR', 'monitor': 'acc'}


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ({}, {'optim_wrapper.optimizer': {'_delete_': True, 'type': 'SGD', 'lr': 0.1}}, r'optimizer\.type was AdamW'),
        ({}, GROUPS, r'6 parameters in 1 groups, that of the config 7 in 7'),
        ({}, {'train_cfg': {'_delete_': True, 'type': 'EpochBasedTrainLoop', 'max_epochs': 2}}, 'counted iterations'),
        ({'param_scheduler': [PLATEAU]}, {'param_scheduler': [PLATEAU, poly(9)]}, 'ReduceOnPlateau'),
    ],
)
def test_what_cannot_be_continued_is_refused(
    tmp_path: Path, old: dict[str, Any], new: dict[str, Any], message: str
) -> None:
    run(tmp_path, old, iterations=2, interval=2)
    with pytest.raises(UserError, match=message) as caught:
        run(tmp_path, new, iterations=4, resume=True)
    assert 'load_from=FILE' in str(caught.value)


def test_the_text_of_a_config_is_read_and_never_run(tmp_path: Path) -> None:
    text = (
        f"model = dict(type='A', sizes=(1, 2), **{{'a b': 3}})\nx = __import__('os').mkdir('{tmp_path}/trap')\nn = -1"
    )
    assert read_config_text(text) == {
        'model': {'type': 'A', 'sizes': [1, 2], 'a b': 3},
        'x': f"__import__('os').mkdir('{tmp_path}/trap')",
        'n': -1,
    }
    assert not list(tmp_path.iterdir())
    for nothing in (None, 3, 'a = (', 'a.b = 1', '(' * 100_000):
        assert read_config_text(nothing) is None


def test_a_type_is_the_same_with_and_without_its_scope() -> None:
    old = {'a': {'type': 'mmengine.optim.SGD', 'lr': 1}, 'gone': 1}
    new = {'a': {'type': 'SGD', 'lr': [2]}}
    assert config_differences(old, new) == {'a.lr': (1, 'not set'), 'a.lr.0': ('not set', 2), 'gone': (1, 'not set')}


def test_each_of_several_optimizers_gets_its_own_options() -> None:
    model = torch.nn.ModuleDict({'a': torch.nn.Linear(2, 1), 'b': torch.nn.Linear(2, 1)})

    def runner(rate: float, end: int) -> Any:
        wrapper = OptimWrapperDict(**{n: OptimWrapper(torch.optim.SGD(model[n].parameters(), lr=rate)) for n in 'ab'})
        plans = {n: [PolyLR(wrapper[n], end=end if n == 'b' else 9, by_epoch=False)] for n in 'ab'}
        state = {'iter': 3, 'epoch': 0, 'train_dataloader': range(5), 'cfg': SimpleNamespace(filename='c.py')}
        return SimpleNamespace(optim_wrapper=wrapper, param_schedulers=plans, model=model, **state)

    def checkpoint(run: Any) -> dict[str, Any]:
        plans = {name: [plan.state_dict() for plan in entry] for name, entry in run.param_schedulers.items()}
        return {
            'optimizer': run.optim_wrapper.state_dict(),
            'param_schedulers': plans,
            'state_dict': model.state_dict(),
        }

    saved = checkpoint(runner(0.1, 9))
    assert not resumed_config._use_config(runner(0.1, 9), saved)
    assert 'param_schedulers' in saved
    now = runner(0.1, 7)
    assert resumed_config._use_config(now, saved)
    now.optim_wrapper.load_state_dict(saved['optimizer'])
    resumed_config._advance(now)
    rates = {name: now.optim_wrapper[name].param_groups[0]['lr'] for name in 'ab'}
    assert rates == pytest.approx({'a': 0.1 * (1 - 3 / 8), 'b': 0.1 * (1 - 3 / 6)})


@pytest.mark.parametrize(
    'state', [7, {}, {'param_groups': 3}, {'param_groups': [{}]}, {'param_groups': [{'params': 1}]}]
)
def test_a_checkpoint_of_another_form_is_a_sentence(tmp_path: Path, state: Any) -> None:
    run(tmp_path, {}, iterations=2, interval=2)
    content = torch.load(tmp_path / 'iter_2.pth', weights_only=False)
    torch.save({**content, 'optimizer': state}, tmp_path / 'other.pth')
    with pytest.raises(UserError, match='cannot be resumed with this config: its '):
        run(tmp_path, {'load_from': str(tmp_path / 'other.pth')}, iterations=4, resume=True)
