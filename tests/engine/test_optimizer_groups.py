"""One group of parameters for each setting trains as a group for each parameter does, also after a resume."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MessageHub, MMLogger
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.runner import Runner

from mmvit_ext.config import adjust
from mmvit_ext.engine import AtomicCheckpointHook, DeferredInfoHook, ExactResumeHook, NonFiniteHook, ResumedConfigHook
from mmvit_ext.engine.hooks.resumed_config import _regroup
from mmvit_ext.engine.optimizers import merged_groups, with_fused
from tests.engine.toy_run import ToyDataset, ToyModel
from tests.zoo import BACKBONES

ROOT = Path(__file__).parents[2]
MERGED, EACH = 'mmvit_ext.MergedGroupsConstructor', 'DefaultOptimWrapperConstructor'
RULES = {'custom_keys': {'norm': {'decay_mult': 0.0}, 'last': {'lr_mult': 10.0}}}


def wrapper_config(constructor: str, **changes: Any) -> dict[str, Any]:
    optimizer = {'type': 'AdamW', 'lr': 0.01, 'weight_decay': 0.1}
    return {'constructor': constructor, 'optimizer': {**optimizer, **changes}, 'paramwise_cfg': RULES}


def train(folder: Path, constructor: str, iterations: int, **options: Any) -> dict[str, Any]:
    """Train to an iteration and return the checkpoint."""
    for kind in (MessageHub, MMLogger):
        kind._instance_dict.clear()
    torch.manual_seed(0)
    schedule = {'type': 'LinearLR', 'start_factor': 0.1, 'by_epoch': False, 'begin': 0, 'end': 3}
    config = {
        'work_dir': str(folder),
        'optim_wrapper': wrapper_config(constructor),
        'param_scheduler': [schedule, {'type': 'CosineAnnealingLR', 'by_epoch': False, 'T_max': 9}],
        'train_cfg': {'by_epoch': False, 'max_iters': iterations},
        'randomness': {'seed': 0},
        'experiment_name': f'{folder.name}-{iterations}',
        **options,
    }
    Runner(
        ToyModel(),
        train_dataloader={
            'batch_size': 5,
            'num_workers': 0,
            'dataset': ToyDataset(),
            'sampler': {'type': 'DefaultSampler', 'shuffle': True},
            'collate_fn': {'type': 'default_collate'},
        },
        default_hooks={
            'runtime_info': DeferredInfoHook(),
            'checkpoint': AtomicCheckpointHook(interval=4, by_epoch=False),
        },
        custom_hooks=[ExactResumeHook(), ResumedConfigHook(), NonFiniteHook()],
        cfg=Config(config),
        **config,
    ).train()
    saved: dict[str, Any] = torch.load(folder / f'iter_{iterations}.pth', weights_only=False)
    return saved


PROBE = ToyModel()
NAMES = {id(parameter): name for name, parameter in PROBE.named_parameters()}


def groups_of(constructor: str) -> list[dict[str, Any]]:
    return [dict(group) for group in build_optim_wrapper(PROBE, wrapper_config(constructor)).optimizer.param_groups]


def by_name(saved: dict[str, Any], constructor: str) -> dict[str, dict[str, Any]]:
    """The moments and options of each parameter."""
    found = {}
    for stored, group in zip(saved['optimizer']['param_groups'], groups_of(constructor), strict=True):
        options = {name: value for name, value in stored.items() if name != 'params'}
        for index, parameter in zip(stored['params'], group['params'], strict=True):
            found[NAMES[id(parameter)]] = {**saved['optimizer']['state'][index], **options}
    return found


@pytest.mark.parametrize(('first', 'second'), [(EACH, MERGED), (MERGED, EACH)], ids=['merged now', 'merged then'])
def test_a_checkpoint_with_other_groups_is_resumed_in_every_bit(tmp_path: Path, first: str, second: str) -> None:
    whole = train(tmp_path / 'whole', second, 8)
    train(tmp_path / 'halves', first, 4)
    halves = train(tmp_path / 'halves', second, 8, resume=True)
    logged = [saved['message_hub']['log_scalars']['train/loss'].data[0].tolist() for saved in (whole, halves)]
    assert logged[0] == logged[1]
    assert len(logged[0]) == 8
    assert len(whole['optimizer']['param_groups']) == (3 if second == MERGED else 6)
    for key, value in whole['state_dict'].items():
        assert torch.equal(value, halves['state_dict'][key]), key
    ours, theirs = by_name(halves, second), by_name(whole, second)
    assert list(ours) == list(theirs)
    for name, values in theirs.items():
        for key, value in values.items():
            assert torch.equal(ours[name][key], value) if torch.is_tensor(value) else ours[name][key] == value, key


def test_the_settings_of_each_parameter_are_those_of_mmengine() -> None:
    settings = []
    for constructor in (EACH, MERGED):
        groups = groups_of(constructor)
        settings.append({id(p): (g['lr'], g['weight_decay']) for g in groups for p in g['params']})
    assert settings[0] == settings[1]
    assert len(groups) == len({*settings[0].values()}) == 3


def test_segvit_has_a_handful_of_groups() -> None:
    pytest.importorskip('mmseg')
    from mmvit_ext.config.building import build_model
    from mmvit_ext.config.loading import load_config

    cfg = load_config(ROOT / 'configs/segvit/segvit_vit-l16_8xb2-160k_ade20k-640x640.py')
    model = build_model(cfg, device='meta', training=True)
    wrapper = cfg.optim_wrapper.to_dict()
    before = build_optim_wrapper(model, {**wrapper, 'constructor': EACH}).optimizer.param_groups
    adjust.set_optimizer(cfg)
    after = build_optim_wrapper(model, cfg.optim_wrapper.to_dict()).optimizer.param_groups
    assert len(before) == sum(len(group['params']) for group in after) > 500
    assert len(after) <= 5


def test_another_constructor_of_the_config_stays() -> None:
    cfg = Config({'optim_wrapper': wrapper_config('mmvit_ext.LayerDecayConstructor')})
    adjust.set_optimizer(cfg)
    assert cfg.optim_wrapper.constructor == 'mmvit_ext.LayerDecayConstructor'
    several = Config({'optim_wrapper': {'constructor': 'mmvit_ext.MultiOptimWrapperConstructor', 'a': {}}})
    adjust.set_optimizer(several)
    assert several.optim_wrapper.constructor == 'mmvit_ext.MultiOptimWrapperConstructor'


def test_rates_by_depth_keep_their_groups() -> None:
    row = BACKBONES['ViT']
    model = torch.nn.Module()
    model.backbone = row.make()
    config = {**wrapper_config('mmvit_ext.LayerDecayConstructor'), 'paramwise_cfg': {'decay_rate': 0.5}}
    groups = build_optim_wrapper(model, config).optimizer.param_groups
    assert len(merged_groups([dict(group) for group in groups])) == len(groups)


@pytest.mark.parametrize(
    ('given', 'fused'),
    [
        ({'type': 'AdamW'}, True),
        ({'type': torch.optim.Adam}, True),
        ({'type': 'AdamW', 'fused': False}, False),
        ({'type': 'AdamW', 'foreach': True}, None),
        ({'type': 'LBFGS'}, None),
    ],
    ids=str,
)
def test_a_step_is_fused_on_a_gpu_unless_the_config_says_how(
    given: dict[str, Any], fused: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert with_fused(given, PROBE) == given
    monkeypatch.setattr(PROBE, 'parameters', lambda: [SimpleNamespace(is_cuda=True)])
    assert with_fused(given, PROBE).get('fused') is fused
    monkeypatch.setattr(PROBE, 'parameters', lambda: [SimpleNamespace(is_cuda=True), SimpleNamespace(is_cuda=False)])
    assert with_fused(given, PROBE) == given, 'a part of the model is on the CPU'


def test_how_a_step_is_computed_is_not_resumed() -> None:
    """A checkpoint of a GPU continues on a CPU, and the other way round."""
    model = ToyModel()
    wrapper = build_optim_wrapper(model, wrapper_config(MERGED, foreach=True))
    saved = wrapper.state_dict()
    for group in saved['param_groups']:
        group.update(fused=True, foreach=None)
    saved['loss_scaler'] = {}

    class Run:
        optim_wrapper = wrapper

    Run.model = model  # type: ignore[attr-defined]
    assert not _regroup(Run, {'optimizer': saved})  # type: ignore[arg-type]
    assert 'loss_scaler' not in saved
    assert all(not group['fused'] and group['foreach'] for group in saved['param_groups'])


def test_other_parameters_are_not_taken_for_a_matter_of_groups() -> None:
    model = ToyModel()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))

    class Run:
        optim_wrapper = wrapper

    Run.model = model  # type: ignore[attr-defined]
    saved = torch.optim.SGD(list(model.parameters())[:3], lr=0.1).state_dict()
    assert not _regroup(Run, {'optimizer': saved})  # type: ignore[arg-type]
    assert [len(group['params']) for group in saved['param_groups']] == [3]


class Card:
    """What is asked of a GPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
        monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda *_: capability)


@pytest.mark.parametrize(
    ('capability', 'amp', 'expected'),
    [
        ((9, 0), None, {'type': 'AmpOptimWrapper', 'dtype': 'bfloat16', 'loss_scale': {'enabled': False}}),
        ((8, 0), True, {'type': 'AmpOptimWrapper', 'dtype': 'bfloat16', 'loss_scale': {'enabled': False}}),
        ((7, 5), None, {'type': 'AmpOptimWrapper', 'dtype': 'float16', 'loss_scale': 'dynamic'}),
        ((9, 0), False, {'type': 'OptimWrapper'}),
    ],
    ids=str,
)
def test_the_precision_of_a_gpu(
    capability: tuple[int, int], amp: bool | None, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    Card(monkeypatch, capability)
    cfg = Config({'optim_wrapper': {'type': 'OptimWrapper', 'optimizer': {}}})
    adjust.set_precision(cfg, amp)
    assert cfg.optim_wrapper == ConfigDict({'optimizer': {}, **expected})


def test_a_precision_that_the_config_says_stays_without_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    Card(monkeypatch, (9, 0))
    for given in (
        {'type': 'AmpOptimWrapper', 'dtype': 'float16', 'optimizer': {}},
        {'constructor': 'x', 'generator': {'optimizer': {}}},
    ):
        cfg = Config({'optim_wrapper': given})
        assert adjust.set_precision(cfg, None) == []
        assert cfg.optim_wrapper == ConfigDict(given)


@pytest.mark.parametrize('kind', ['AmpOptimWrapper', 'mmvit_ext.CPUAmpOptimWrapper'])
@pytest.mark.parametrize('gpu', [True, False])
def test_no_amp_trains_in_float32_whatever_the_config_says(
    kind: str, gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    mixed = {'type': kind, 'dtype': 'float16', 'loss_scale': 'dynamic', 'use_fsdp': False, 'optimizer': {'type': 'SGD'}}
    plain = {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD'}}
    for given, expected in ((mixed, plain), ({'constructor': 'x', 'a': mixed}, {'constructor': 'x', 'a': plain})):
        cfg = Config({'optim_wrapper': given})
        assert adjust.set_precision(cfg, False) == []
        assert cfg.optim_wrapper == ConfigDict(expected)


def test_a_cpu_trains_in_float32_unless_told() -> None:
    for amp in (None, False):
        cfg = Config({'optim_wrapper': {'type': 'OptimWrapper', 'optimizer': {}}})
        adjust.set_precision(cfg, amp)
        assert cfg.optim_wrapper.type == 'OptimWrapper'
