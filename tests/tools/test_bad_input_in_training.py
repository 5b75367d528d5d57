"""What ``tools/train.py`` does with checkpoints that hold code, losses that are NaN and samples that cannot be read."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mmvit_ext.inference.export import TORCH

Config = Callable[..., str]
Run = Callable[..., tuple[int, str]]


class Malicious:
    """Unpickling it makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.target),)


def read(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location='cpu', weights_only=False)


def error_of(output: str) -> str:
    assert 'Traceback' not in output
    lines = [line for line in output.splitlines() if line.startswith('train: error: ')]
    assert len(lines) == 1, output[-2000:]
    return lines[0]


@pytest.fixture
def resumable(make_config: Config, run_tool: Run, tmp_path: Path) -> tuple[str, Path]:
    """A config, and the checkpoint of its first of two iterations."""
    config = make_config()
    assert run_tool('train', config, '--work-dir', 'first', '--cfg-options', 'train_cfg.max_iters=1')[0] == 0
    return config, tmp_path / 'first' / 'iter_1.pth'


# Checkpoints


@pytest.mark.parametrize('way', ['resume', 'load_from', 'pretrained', 'test'])
def test_a_malicious_checkpoint_runs_nothing(way: str, resumable: tuple, run_tool: Run, tmp_path: Path) -> None:
    config, checkpoint = resumable
    target = tmp_path / 'owned'
    bad = tmp_path / 'bad.pth'
    torch.save({**read(checkpoint), 'surprise': Malicious(target)}, bad)
    arguments = {
        'resume': ('train', config, '--resume', str(bad)),
        'load_from': ('train', config, '--cfg-options', f'load_from={bad}'),
        'pretrained': (
            'train',
            config,
            '--cfg-options',
            'model.backbone.init_cfg.type=Pretrained',
            f'model.backbone.init_cfg.checkpoint={bad}',
        ),
        'test': ('test', config, str(bad)),
    }[way]
    code, output = run_tool(*arguments, '--work-dir', 'second')
    assert not target.exists()
    assert code == 2
    assert 'bad.pth holds more than tensors and plain values' in output
    assert 'pass --trust' in output
    if way in ('resume', 'test'):
        assert run_tool(*arguments, '--work-dir', 'third', '--trust')[0] == 0
        assert target.exists()


def test_config_text_in_a_checkpoint_is_not_executed(resumable: tuple, run_tool: Run, tmp_path: Path) -> None:
    config, checkpoint = resumable
    content = read(checkpoint)
    target = tmp_path / 'owned'
    content['meta']['config'] = f'import os\nos.mkdir({str(target)!r})\n'
    torch.save(content, tmp_path / 'bad.pth')
    code, output = run_tool('train', config, '--work-dir', 'second', '--resume', str(tmp_path / 'bad.pth'))
    assert code == 0
    assert 'Iter(train) [2/2]' in output
    assert not target.exists()


def test_config_text_is_not_executed_by_a_foreign_train_script_either(
    resumable: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmengine.config import Config as MMConfig
    from mmengine.logging import MessageHub, MMLogger
    from mmengine.registry import DefaultScope
    from mmengine.runner import Runner

    for kind in (DefaultScope, MessageHub, MMLogger):
        kind._instance_dict.clear()
    config, checkpoint = resumable
    content = read(checkpoint)
    target = tmp_path / 'owned'
    content['meta']['config'] = f'import os\nos.mkdir({str(target)!r})\n'
    torch.save(content, tmp_path / 'bad.pth')
    cfg = MMConfig.fromfile(config)
    cfg.default_hooks.safe_files = {'type': 'mmvit_ext.SafeFilesHook'}
    cfg.update(load_from=str(tmp_path / 'bad.pth'), resume=True, work_dir=str(tmp_path / 'second'))
    Runner.from_cfg(cfg).train()
    assert not target.exists()


def test_a_checkpoint_with_another_hash_than_its_name_says_is_refused(resumable: tuple, run_tool: Run) -> None:
    config, checkpoint = resumable
    renamed = checkpoint.with_name('released-00c0ffee.pth')
    checkpoint.rename(renamed)
    code, output = run_tool('train', config, '--work-dir', 'second', '--cfg-options', f'load_from={renamed}')
    assert code == 2
    assert 'where its name says 00c0ffee' in error_of(output)


# Losses


NAN_LOSS = """
from mmseg.models.losses import CrossEntropyLoss
from mmseg.registry import MODELS
class {name}(CrossEntropyLoss):
    calls = 0
    def forward(self, *args, **kwargs):
        type(self).calls += 1
        return super().forward(*args, **kwargs) * (float('nan') if type(self).calls == 2 else 1)
MODELS.register_module(module={name}, force=True)
"""


@pytest.fixture
def nan_config(make_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny config, for four iterations, with a loss that is NaN in the second."""
    if TORCH < (2, 5):  # there a compilation of an earlier test has taken the hooks of all optimizers away
        monkeypatch.setattr(torch.optim.AdamW.step, 'hooked', False, raising=False)
    name = f'NaNLoss{abs(hash(str(tmp_path)))}'
    (tmp_path / f'{name.lower()}.py').write_text(NAN_LOSS.format(name=name))
    monkeypatch.syspath_prepend(str(tmp_path))
    return make_config(
        f"custom_imports = dict(imports=['{name.lower()}'], allow_failed_imports=False)",
        f"model['decode_head']['loss_decode'] = dict(type='{name}')",
        "train_cfg['max_iters'] = 4",
        "train_cfg['val_interval'] = 9",
        "model['decode_head']['norm_cfg'] = None",
    )


def test_a_nan_ends_training_before_it_is_saved(nan_config: str, run_tool: Run) -> None:
    code, output = run_tool('train', nan_config, '--work-dir', 'runs')
    assert code == 2
    error = error_of(output)
    assert 'iteration 2 has losses that are not finite' in error
    assert 'decode.loss_ce = nan' in error
    assert 'data/images/image_' in error
    assert sorted(path.name for path in Path('runs').glob('*.pth')) == ['iter_1.pth']


def test_nan_updates_may_be_left_out_up_to_a_number(nan_config: str, run_tool: Run) -> None:
    code, output = run_tool('train', nan_config, '--work-dir', 'runs', '--skip-nonfinite', '1')
    assert code == 0
    assert 'update left out (1 of at most 1)' in output
    assert 'Iter(train) [4/4]' in output
    state = read(Path('runs') / 'iter_4.pth')['state_dict']
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state.values())


# Samples


def test_bad_samples_end_training_or_are_left_out(make_config: Config, run_tool: Run, data_root: Path) -> None:
    (data_root / 'images' / 'image_1.png').write_bytes(b'no image')
    config = make_config(
        "train_cfg['max_iters'] = 3",
        'val_dataloader = val_cfg = val_evaluator = None',
        "default_hooks['checkpoint'].pop('save_best')",
        "default_hooks['exact_resume'] = dict(type='mmvit_ext.ExactResumeHook')",  # wraps the dataset once more
        "train_dataloader['num_workers'] = 1",
    )
    code, output = run_tool('train', config, '--work-dir', 'a')
    assert code == 2
    assert 'image_1.png cannot be decoded' in error_of(output)
    code, output = run_tool('train', config, '--work-dir', 'b', '--skip-bad-samples', '1')
    assert code == 0
    assert 'bad sample 1 left out: the image' in output
    assert ' - 1 bad samples of the training data were left out so far' in output
    (data_root / 'labels' / 'image_0.png').write_bytes(b'no label map')
    code, output = run_tool('train', config, '--work-dir', 'c', '--skip-bad-samples', '1')
    assert code == 2
    assert '2 of 3 samples could not be read, more than the limit of 1' in error_of(output)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [(('--skip-nonfinite', '-1'), 'must be at least 0'), (('--skip-bad-samples', '0'), 'a fraction below 1, got 0')],
)
def test_limits_that_are_none_are_refused(arguments: tuple, message: str, make_config: Config, run_tool: Run) -> None:
    code, output = run_tool('train', make_config(), *arguments)
    assert code == 2
    assert message in error_of(output)
