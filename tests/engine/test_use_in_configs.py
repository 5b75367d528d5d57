"""Configs as users write them: hooks that train in a test, metrics of another name, classes as types, one class."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.hooks import EarlyStoppingHook, EMAHook, Hook, LoggerHook, ProfilerHook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.structures import PixelData
from torch.utils.data import DataLoader

from mmvit_ext.checks.before_run import check_num_classes
from mmvit_ext.config.adjust import set_precision, set_tta
from mmvit_ext.config.loading import load_config, prepare_scope
from mmvit_ext.config.writing import config_text
from mmvit_ext.engine.hooks.reports import MetricsHook, WeightsReportHook
from mmvit_ext.engine.recipes import _optimisation
from mmvit_ext.engine.testing import _is_for_training, _plain, _set_out
from mmvit_ext.engine.training import _set_resume
from mmvit_ext.errors import UserError
from mmvit_ext.errors.failures import describe_failure
from mmvit_ext.evaluation.loop import evaluate
from tests.engine import test_resumed_config as resumed
from tests.engine import toy_run


def test_hooks_of_a_training_are_left_out_of_a_test() -> None:
    assert _is_for_training(EarlyStoppingHook(monitor='acc'))
    assert _is_for_training(ProfilerHook())
    assert not [hook for hook in (LoggerHook(), EMAHook(), WeightsReportHook(), Hook()) if _is_for_training(hook)]


@toy_run.METRICS.register_module(force=True)
class OddMetric(toy_run.ToyMetric):
    """Another name than the config's, not a number, and several numbers."""

    def compute_metrics(self, results: list[float]) -> dict[str, Any]:
        numbers = {'error': float('nan'), 'count': len(results)}
        return {**numbers, 'matrix': torch.zeros(2, 2), 'classes': [0.5, 0.25]}  # as of confusion matrices


def test_a_metric_of_another_name_or_nan_does_not_end_a_run_but_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr('mmengine.logging.MMLogger.callHandlers', lambda _, record: said.append(record.getMessage()))
    changes = {'val_evaluator.type': 'OddMetric', 'default_hooks.metrics': {'type': 'mmvit_ext.MetricsHook'}}
    rates = resumed.run(tmp_path, changes, iterations=4, val_interval=2)
    assert max(rates) == 4
    text = '\n'.join(said)
    assert 'metrics that are not finite: error = nan' in text
    assert text.count('save_best names acc, the metrics of the validation are error, count, matrix, classes') == 1
    assert not list(tmp_path.glob('best_*'))
    assert isinstance(MetricsHook(), Hook)


def test_metrics_of_several_numbers_are_lists_in_json_and_left_out_of_a_study() -> None:
    metrics = {'matrix': torch.ones(1, 2), 'classes': [np.float32(0.5), 0.25], 'count': torch.tensor(3), 'best': 'a'}
    plain = {'matrix': [[1.0, 1.0]], 'classes': [0.5, 0.25], 'count': 3, 'best': 'a'}
    assert json.loads(json.dumps(metrics, default=_plain)) == plain
    loader: Any = DataLoader(toy_run.ToyDataset(), batch_size=10)
    loader.dataset.metainfo = {}
    predictor: Any = SimpleNamespace(model=SimpleNamespace(test_step=lambda batch: [{'error': 1.0}]))
    assert {*evaluate(predictor, loader, {'type': 'OddMetric'})} == {'error', 'count'}


def test_label_maps_are_written_by_the_metrics_that_can(tmp_path: Path) -> None:
    kinds = ['IoUMetric', 'mmvit_ext.ClassIoUMetric', 'mmvit_ext.TrimapIoUMetric', 'mmvit_ext.OtherMetric']
    cfg = Config({'default_scope': 'mmseg', 'test_evaluator': [{'type': kind} for kind in kinds]})
    _set_out(cfg, tmp_path)
    assert [evaluator.get('output_dir') for evaluator in cfg.test_evaluator] == [str(tmp_path)] * 2 + [None] * 2
    with pytest.raises(UserError, match=r'--out .* needs .*IoUMetric.* in test_evaluator'):
        _set_out(Config({'default_scope': 'mmseg', 'test_evaluator': {'type': kinds[2]}}), tmp_path)


@pytest.mark.parametrize('restarts', [0, 1])
def test_a_run_that_was_started_again_before_it_saved_resumes_as_the_first_time(
    tmp_path: Path, restarts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', str(restarts))
    cfg = Config({'work_dir': str(tmp_path), 'resume': True, 'load_from': 'before.pth'})
    _set_resume(cfg, None)
    assert (cfg.resume, cfg.load_from) == (True, 'before.pth')
    cfg = Config({'work_dir': str(tmp_path), 'resume': False, 'load_from': 'weights.pth'})
    _set_resume(cfg, None)
    assert (cfg.resume, cfg.load_from) == (False, 'weights.pth')


@pytest.mark.parametrize(('steps', 'first'), [(1, 1.0), (19, 1.0), (20, 1e-3)])
def test_a_short_training_reaches_its_learning_rate(steps: int, first: float) -> None:
    schedule = _optimisation(SimpleNamespace(mode='scratch', max_iters=steps))['param_scheduler']  # type: ignore[arg-type]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    text = config_text('', {'': {'max_iters': steps, 'param_scheduler': schedule}})
    schedulers = [
        PARAM_SCHEDULERS.build({**entry, 'optimizer': optimizer})
        for entry in Config.fromstring(text, '.py').param_scheduler
    ]
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    assert rates[0] == pytest.approx(first)
    assert max(rates) > 0.9


def raising(stage: str) -> type[Hook]:
    def method(*_: Any, **__: Any) -> None:
        raise KeyError

    return type('UserHook', (Hook,), {stage: method})


@pytest.mark.parametrize(
    ('changes', 'hook', 'expected'),
    [
        ({}, raising('before_train'), 'the hook UserHook fails in before_train (KeyError)'),
        ({}, raising('after_val_epoch'), 'the hook UserHook fails in after_val_epoch (KeyError)'),
        (
            {'param_scheduler': [{'type': 'OneCycleLR', 'eta_max': 1, 'total_steps': 2, 'by_epoch': False}]},
            None,
            'OneCycleLR',
        ),
        ({'param_scheduler': [resumed.poly(0)]}, None, 'PolyLR'),
        (
            {'optim_wrapper.constructor': 'mmpretrain.LearningRateDecayOptimWrapperConstructor'},
            None,
            'no optimizer can',
        ),
    ],
)
def test_what_an_optimizer_a_hook_or_a_schedule_raises_is_a_sentence(
    tmp_path: Path, changes: dict[str, Any], hook: type[Hook] | None, expected: str
) -> None:
    if 'optim_wrapper.constructor' in changes:
        pytest.importorskip('mmpretrain.engine')
        changes = {**changes, 'optim_wrapper.paramwise_cfg': {'layer_decay_rate': 0.5}}
    cfg = toy_run.toy_config(tmp_path, iterations=6, val_interval=2)
    cfg.default_hooks.pop('preemption')
    cfg.merge_from_dict(changes)
    cfg.param_scheduler = changes.get('param_scheduler', cfg.param_scheduler)
    runner = toy_run.Runner.from_cfg(cfg)
    if hook is not None:
        runner.register_hook(hook())
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whichever it is
        runner.train()
    assert expected in str(describe_failure(caught.value))


@pytest.mark.parametrize('kind', ['OptimWrapper', 'mmengine.OptimWrapper', OptimWrapper, AmpOptimWrapper, None])
def test_mixed_precision_knows_a_wrapper_by_any_of_its_names(kind: Any) -> None:
    wrapper = {'optimizer': {'type': 'SGD', 'lr': 1}, **({'type': kind} if kind else {})}
    cfg = Config({'optim_wrapper': wrapper})
    set_precision(cfg, True)
    on_cpu = 'mmvit_ext.CPUAmpOptimWrapper'
    assert cfg.optim_wrapper.type in ((AmpOptimWrapper, 'AmpOptimWrapper') if torch.cuda.is_available() else (on_cpu,))
    with pytest.raises(UserError, match='OptimWrapper, not ApexOptimWrapper'):
        set_precision(Config({'optim_wrapper': {'type': 'mmengine.ApexOptimWrapper'}}), True)


def test_a_pure_python_config_needs_no_default_scope(tmp_path: Path) -> None:
    segmentors = pytest.importorskip('mmseg.models.segmentors')
    cfg = Config({'default_scope': None, 'model': {'type': segmentors.EncoderDecoder}})
    assert (prepare_scope(cfg), cfg.default_scope) == ('mmseg', 'mmseg')
    (tmp_path / 'c.py').write_text(
        'from mmseg.models.segmentors import EncoderDecoder\ndefault_scope = None\nmodel = dict(type=EncoderDecoder)\n'
    )
    assert prepare_scope(load_config(tmp_path / 'c.py')) == 'mmseg'
    assert prepare_scope(Config({'default_scope': None, 'model': {'type': 'mmseg.EncoderDecoder'}})) == 'mmseg'
    with pytest.raises(UserError, match='no default_scope'):
        prepare_scope(Config({'model': {'type': 'EncoderDecoder'}}))


def test_a_library_that_raises_anything_while_it_is_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise AttributeError('module transformers has no attribute PreTrainedModel')

    monkeypatch.setattr('mmvit_ext.config.loading.importlib.import_module', broken)
    with pytest.raises(UserError, match=r'mmpretrain .*cannot be imported: AttributeError.*doctor'):
        prepare_scope(Config({'default_scope': 'mmpretrain', 'model': {'type': 'X'}}))


@pytest.mark.parametrize('tag', ['!!python/object/apply:os.mkdir ["{}"]', '!!python/name:os.getcwd', '!other 1'])
@pytest.mark.parametrize('name', ['c.yml', 'c.yaml', 'leaf.py'])
def test_tags_in_yaml_run_nothing(tmp_path: Path, tag: str, name: str) -> None:
    trap = tmp_path / 'trap'
    file = tmp_path / (name if name != 'leaf.py' else 'base.yaml')
    file.write_text(f'a: {tag.format(trap)}\n')
    (tmp_path / 'leaf.py').write_text("_base_ = 'base.yaml'\n")
    with pytest.raises(UserError, match=r'cannot be read.*the YAML tag .*(python|other).* plain values'):
        load_config(tmp_path / name)
    assert not trap.exists()
    file.write_text('a: [1, {b: c}]\n')
    assert load_config(tmp_path / name).a == [1, {'b': 'c'}]


SOFTMAX, SIGMOID = ({'type': 'CrossEntropyLoss', 'use_sigmoid': value} for value in (False, True))


@pytest.mark.parametrize(
    ('head', 'good'),
    [
        ({'num_classes': 1, 'loss_decode': SIGMOID}, False),
        ({'num_classes': 2, 'out_channels': 1}, False),
        ({'num_classes': 2, 'out_channels': 1, 'loss_decode': [SOFTMAX]}, False),
        ({'num_classes': 2, 'out_channels': 1, 'loss_decode': SIGMOID}, True),
        ({'num_classes': 2}, True),
    ],
)
def test_heads_that_give_a_constant_are_refused_with_the_remedy(head: dict[str, Any], good: bool) -> None:
    cfg = Config({'model': {'decode_head': head}})
    names = {'data': ['background', 'ship'][: head['num_classes']]}
    if good:
        check_num_classes(cfg, 'mmseg', names)
    else:
        with pytest.raises(UserError, match=r'model\.decode_head\..*num_classes=2'):
            check_num_classes(cfg, 'mmseg', names)


@pytest.mark.parametrize('wrong', [{'num_classes': 1}, {'out_channels': 1}, {'threshold': 0.4}])
@pytest.mark.parametrize('kind', ['ATMHead', 'ShrunkATMHead'])
def test_heads_of_scores_refuse_one_map_and_a_threshold(kind: str, wrong: dict[str, Any]) -> None:
    heads = pytest.importorskip('mmvit_ext.models.decode_heads')
    settings = {'in_channels': [8] * 2, 'in_index': [0, 1], 'channels': 8, 'num_heads': 2, 'num_layers': 1, **wrong}
    settings = {'num_classes': 2, **settings, **({'img_size': 32} if kind == 'ShrunkATMHead' else {})}
    with pytest.raises(ValueError, match="'background', NAME"):
        getattr(heads, kind)(**settings)


def test_views_of_one_probability_are_averaged_and_compared_with_the_threshold() -> None:
    pytest.importorskip('mmseg')
    from mmseg.structures import SegDataSample

    from mmvit_ext.models.segmentors import ScoreTTAModel

    class Module(torch.nn.Module):
        decode_head = ConfigDict(threshold=0.3)
        test_step = None

    model = ScoreTTAModel(module=Module())
    views = [
        SegDataSample(seg_logits=PixelData(data=torch.tensor([[[low, high]]])))
        for low, high in ((0.1, 0.2), (0.3, 0.6))
    ]
    assert model.merge_preds([views])[0].pred_sem_seg.data.tolist() == [[[0, 1]]]


def test_the_sigmoid_of_a_sigmoid_is_refused_in_test_time_augmentation() -> None:
    model = {'decode_head': {'num_classes': 2, 'out_channels': 1}}
    cfg = Config({'model': model, 'tta_model': {'type': 'SegTTAModel'}, 'tta_pipeline': []})
    with pytest.raises(UserError, match='ScoreTTAModel'):
        set_tta(copy.deepcopy(cfg))
    cfg.tta_model.type = 'mmvit_ext.ScoreTTAModel'
    set_tta(cfg)
    assert cfg.model.module.decode_head.out_channels == 1
