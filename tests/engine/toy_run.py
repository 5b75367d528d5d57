"""A training run of half a second for the tests that kill, stop and resume runs: mmengine alone, a tiny network.

It runs in a process of its own that is forked from a server which has the imports behind it.
"""

import json
import multiprocessing
import os
import random
import uuid
from collections.abc import Callable
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from tests.conftest import shorten_runs

LIMIT = 900  # seconds that a run may take on a machine that does much else
CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload(['tests.engine.toy_run', 'mmvit_ext.engine'])
for name in ('matplotlib.pyplot', 'mmcv.ops', 'torch._dynamo', 'torchvision', 'yapf.yapflib.yapf_api'):
    import_module(name)  # a run imports it late, and each process would do so anew
shorten_runs()


@DATASETS.register_module(force=True)
class ToyDataset(Dataset):
    """29 vectors; each of the three generators augments them."""

    def __init__(self, augment: bool = True) -> None:
        self.augment = augment
        self.data = torch.randn(29, 13, generator=torch.Generator().manual_seed(3))

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        vector = self.data[index].clone()
        target = vector.sum().abs()
        if self.augment:
            vector = vector * random.uniform(0.5, 1.5) + 0.1 * torch.randn(13)
            vector += float(np.random.normal())  # noqa: NPY002
        return {'vector': vector, 'target': target, 'index': int(index)}


@MODELS.register_module(force=True)
class ToyModel(BaseModel):
    """Dropout, drop path and a norm with running statistics."""

    def __init__(self, ballast: int = 0) -> None:
        super().__init__()
        self.first = nn.Linear(13, 17)
        self.norm = nn.BatchNorm1d(17)
        self.dropout = nn.Dropout(0.3)
        self.last = nn.Linear(17, 1)
        self.register_buffer('ballast', torch.zeros(ballast))

    def forward(self, vector: torch.Tensor, target: torch.Tensor, index: torch.Tensor, mode: str = 'tensor') -> Any:
        hidden = self.dropout(self.norm(self.first(vector)).relu())
        if self.training:
            hidden = hidden * (torch.rand(len(hidden), 1) < 0.8)  # drop path
        error = (self.last(hidden)[:, 0] - target).square().mean()
        return {'loss': error} if mode == 'loss' else [{'error': float(error) + random.random() + torch.rand(1).item()}]


@METRICS.register_module(force=True)
class ToyMetric(BaseMetric):
    """The error, and a random part to show that validations draw from the generators."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [sample['error'] for sample in data_samples]

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        return {'acc': -sum(results)}


@HOOKS.register_module(force=True)
class RecordHook(Hook):
    """Appends iteration, loss and the indices of the batch to a file, exactly."""

    priority = 'VERY_HIGH'

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        line = [runner.iter + 1, outputs['loss'].item().hex(), [int(index) for index in data_batch['index']]]
        with (Path(runner.work_dir) / 'record.jsonl').open('a') as file:
            file.write(json.dumps(line) + '\n')


@HOOKS.register_module(force=True)
class CallHook(Hook):
    """Calls a function of the test after an iteration."""

    priority = 'NORMAL'

    def __init__(self, at: int, action: str) -> None:
        self.at, self.action = at, action

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter + 1 == self.at:
            exec(self.action, {'runner': runner, 'os': os})

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if self.at == -runner.iter and batch_idx == 1:
            exec(self.action, {'runner': runner, 'os': os})


def toy_config(work_dir: Path, **changes: Any) -> Config:
    """The config of the run.

    Args:
        work_dir: Its folder.
        changes: ``iterations``, ``epochs`` (epoch-based then), ``interval`` of checkpoints, ``val_interval``,
            ``workers``, ``amp``, ``hooks`` (more hooks), ``atomic``, ``exact``, ``sampler``, ``ballast``, ``resume``.
    """
    epochs = changes.get('epochs')
    by_epoch = epochs is not None
    workers = changes.get('workers', 0)
    sampler = changes.get('sampler') or ('DefaultSampler' if by_epoch else 'InfiniteSampler')
    loader = {'batch_size': 5, 'num_workers': workers, 'persistent_workers': workers > 0 and by_epoch}
    loader['collate_fn'] = {'type': 'default_collate'}
    val_interval = changes.get('val_interval', 1 if by_epoch else 4)
    train = {'type': 'EpochBasedTrainLoop', 'max_epochs': epochs, 'val_interval': val_interval}
    if not by_epoch:
        iterations = changes.get('iterations', 12)
        train = {'type': 'IterBasedTrainLoop', 'max_iters': iterations, 'val_interval': val_interval}
    default_hooks = {
        'logger': {'type': 'LoggerHook', 'interval': 1, 'log_metric_by_epoch': by_epoch},
        'checkpoint': {
            'type': 'mmvit_ext.AtomicCheckpointHook' if changes.get('atomic', True) else 'CheckpointHook',
            'by_epoch': by_epoch,
            'interval': changes.get('interval', 3 if not by_epoch else 1),
            'max_keep_ckpts': changes.get('keep', 2),
            'save_best': 'acc',
        },
        'preemption': {'type': 'mmvit_ext.PreemptionHook', 'interval': 1},
    }
    if changes.get('exact', True):
        default_hooks['exact_resume'] = {'type': 'mmvit_ext.ExactResumeHook'}
        default_hooks['resumed_config'] = {'type': 'mmvit_ext.ResumedConfigHook'}
    return Config(
        {
            'default_scope': 'mmengine',
            'experiment_name': f'toy_{uuid.uuid4()}',
            'work_dir': str(work_dir),
            'model': {'type': 'ToyModel', 'ballast': changes.get('ballast', 0)},
            'train_dataloader': {
                **loader,
                'sampler': {'type': sampler, 'shuffle': True},
                'dataset': {'type': 'ToyDataset'},
            },
            'val_dataloader': {
                **loader,
                'num_workers': 0,
                'persistent_workers': False,
                'sampler': {'type': 'DefaultSampler', 'shuffle': False},
                'dataset': {'type': 'ToyDataset', 'augment': False},
            },
            'train_cfg': train,
            'val_cfg': {'type': 'ValLoop'},
            'val_evaluator': {'type': 'ToyMetric'},
            'optim_wrapper': {
                'type': 'mmvit_ext.CPUAmpOptimWrapper' if changes.get('amp') else 'OptimWrapper',
                'optimizer': {'type': 'AdamW', 'lr': 1e-2},
                'accumulative_counts': changes.get('accumulation', 1),
            },
            'param_scheduler': [{'type': 'PolyLR', 'power': 0.9, 'by_epoch': by_epoch, 'begin': 0, 'end': 40}],
            'default_hooks': default_hooks,
            'custom_hooks': [{'type': 'RecordHook'}, *changes.get('hooks', [])],
            'env_cfg': {'mp_cfg': {'mp_start_method': 'fork'}, 'dist_cfg': {'backend': 'gloo'}},
            'randomness': {'seed': changes.get('seed', 11)},
            'log_level': 'WARNING',
            'resume': changes.get('resume', False),
        }
    )


def train(work_dir: Path, **changes: Any) -> Runner:
    """Train in this process."""
    torch.set_num_threads(1)
    runner = Runner.from_cfg(toy_config(work_dir, **changes))
    runner.train()
    return runner


def _main(function: Callable[..., Any], log: str, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    function(*args, **options)


def start(work_dir: Path, function: Callable[..., Any] = train, **changes: Any) -> BaseProcess:
    """Train in a process of its own; what it writes is added to ``output.txt`` beside the work folder."""
    log = str(work_dir.parent / 'output.txt')
    process = CONTEXT.Process(target=_main, args=(function, log, (work_dir,), changes))
    process.start()
    return process


def run(work_dir: Path, **changes: Any) -> None:
    """Train in a process of its own to the end."""
    process = start(work_dir, **changes)
    process.join(LIMIT)
    assert process.exitcode == 0, (work_dir.parent / 'output.txt').read_text()[-3000:]


def saved(work_dir: Path) -> int:
    """The iteration of the last checkpoint of a run that may be running."""
    note = work_dir / 'last_checkpoint'
    return int(note.read_text().rpartition('_')[2].removesuffix('.pth')) if note.exists() else 0


def record(work_dir: Path) -> dict[int, list[Any]]:
    """Loss and indices by iteration; of an iteration that ran twice the last one, and both have to be equal."""
    lines: dict[int, list[Any]] = {}
    for text in (work_dir / 'record.jsonl').read_text().splitlines():
        number, *rest = json.loads(text)
        assert lines.setdefault(number, rest) == rest, f'iteration {number} is another one the second time'
    return lines


def weights(work_dir: Path, name: str) -> dict[str, torch.Tensor]:
    """The parameters in a checkpoint."""
    return torch.load(work_dir / name, weights_only=False)['state_dict']
