"""SegViT trained by mmengine's FlexibleRunner with its parameters sharded over two processes (FSDP)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.config import Config
from mmengine.runner import FlexibleRunner

from mmvit_ext.checkpoints.reading import read_checkpoint
from tests.tools.conftest import CONFIG, write_pair

PROCESSES = 2
ITERATIONS = 2
SEGVIT = """
model['backbone'] = dict(
    type='mmvit_ext.ViT',
    arch=dict(embed_dims=24, num_layers=3, num_heads=3, mlp_ratio=2),
    img_size=crop_size,
    patch_size=8,
    out_indices=(0, 2),
)
model['decode_head'] = dict(
    type='mmvit_ext.ATMHead',
    in_channels=[24, 24],
    in_index=[0, 1],
    channels=12,
    num_classes=3,
    num_heads=3,
    num_layers=1,
    dropout_ratio=0.0,
)
# Which pixels a crop has would depend on the process that cuts it.
train_pipeline[2] = dict(type='Resize', scale=crop_size)
train_dataloader['dataset']['pipeline'] = train_pipeline
param_scheduler = None
optim_wrapper['optimizer'] = dict(type='SGD', lr=0.1, momentum=0.9)
default_hooks = dict(
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1), logger=dict(type='LoggerHook', interval=1)
)
runner_type = 'FlexibleRunner'
env_cfg = dict(dist_cfg=dict(backend='gloo'))
randomness = dict(seed=0)
"""
# What a CPU needs: the device by name, because mmengine counts GPUs otherwise, and a state dict that is not moved to
# the CPU, because PyTorch gives the memory of one that is there already back while it is still read.
SHARDED = """
strategy = dict(
    type='FSDPStrategy',
    model_wrapper=dict(type='MMFullyShardedDataParallel', device_id='cpu'),
    state_dict_cfg=dict(
        state_dict_type='FULL_STATE_DICT',
        state_dict_config=dict(type='FullStateDictConfig', rank0_only=True),
        optim_state_dict_config=dict(type='FullOptimStateDictConfig', rank0_only=True),
    ),
)
"""


def streams_on_a_cpu() -> bool:
    """Whether this PyTorch lets FSDP ask a CPU for streams, as it does a GPU; 2.1 does not."""
    try:
        torch.cpu.Stream(priority=-1)
    except TypeError:
        return False
    return True


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not streams_on_a_cpu(), reason='FSDP of this PyTorch needs a GPU'),
]


def config(folder: Path, *extra: str, **replaced: Any) -> Config:
    path = folder / 'segvit.py'
    path.write_text(''.join([CONFIG.format(root=str(folder / 'data')), SEGVIT, *extra]))
    cfg = Config.fromfile(path)
    path.unlink()
    cfg.work_dir = str(folder / 'runs')
    cfg.merge_from_dict(replaced)
    return cfg


def work(rank: int, folder: Path, cfg: Config) -> None:
    """One of the processes."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(PROCESSES))
    torch.set_num_threads(1)
    # mmengine itself can only start a group of GPUs.
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/meeting', rank=rank, world_size=PROCESSES
    )
    FlexibleRunner.from_cfg(cfg).train()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(8):
        write_pair(tmp_path / 'data', f'image_{index}', index)
    return tmp_path


def test_sharded_over_two_processes_segvit_learns_what_one_process_does(folder: Path) -> None:
    sharded = config(folder, SHARDED, launcher='pytorch')
    torch.multiprocessing.start_processes(work, (folder, sharded), nprocs=PROCESSES, start_method='forkserver')
    first, weights = (state_dict(folder / 'runs', iteration) for iteration in (1, ITERATIONS))

    alone = config(folder, **{'work_dir': str(folder / 'alone'), 'train_dataloader.batch_size': 2 * PROCESSES})
    FlexibleRunner.from_cfg(alone).train()
    expected = state_dict(folder / 'alone', ITERATIONS)

    assert weights.keys() == expected.keys()  # whole, and loadable without FSDP
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-5, msg=name)
        assert not torch.equal(weights[name], first[name]), name


def state_dict(folder: Path, iteration: int) -> dict[str, torch.Tensor]:
    return read_checkpoint(folder / f'iter_{iteration}.pth')['state_dict']
