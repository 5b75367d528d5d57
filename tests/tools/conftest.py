"""A segmentation data set and a config that train in about a second, and the commands as functions."""

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from PIL import Image

from mmvit_ext.cli.main import SCRIPTS, run_verb

CONFIG = """
default_scope = 'mmseg'
crop_size = (32, 32)
data_root = {root!r}
train_pipeline = [
    dict(type='mmvit_ext.LoadImageFromFile'),
    dict(type='mmvit_ext.LoadSegAnnotations', num_classes=3),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='mmvit_ext.LoadImageFromFile'),
    dict(type='Resize', scale=(48, 40), keep_ratio=True),
    dict(type='mmvit_ext.LoadSegAnnotations', num_classes=3),
    dict(type='PackSegInputs'),
]
tta_pipeline = [
    dict(type='mmvit_ext.LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='mmvit_ext.LoadSegAnnotations', num_classes=3)],
            [dict(type='PackSegInputs')],
        ],
    ),
]
tta_model = dict(type='SegTTAModel')
metainfo = dict(classes=('wall', 'floor', 'sky'), palette=[[255, 0, 0], [0, 255, 0], [0, 0, 255]])
dataset = dict(
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=metainfo,
    img_suffix='.png',
    data_prefix=dict(img_path='images', seg_map_path='labels'),
)
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(pipeline=train_pipeline, **dataset),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(pipeline=test_pipeline, test_mode=True, **dataset),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
param_scheduler = [dict(type='PolyLR', begin=0, end=2, power=1.0, by_epoch=False)]
auto_scale_lr = dict(enable=False, base_batch_size=16)
default_hooks = dict(
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1, save_best='mIoU'),
    logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
    visualization=dict(type='SegVisualizationHook'),
)
visualizer = dict(type='SegLocalVisualizer', name='visualizer', vis_backends=[dict(type='LocalVisBackend')])
log_processor = dict(by_epoch=False)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127.5] * 3,
        std=[127.5] * 3,
        bgr_to_rgb=True,
        size=crop_size,
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type='VisionTransformer',
        img_size=crop_size,
        patch_size=8,
        embed_dims=16,
        num_layers=2,
        num_heads=2,
        out_indices=(1,),
    ),
    decode_head=dict(
        type='FCNHead',
        in_channels=16,
        in_index=0,
        channels=8,
        num_convs=1,
        num_classes=3,
        norm_cfg=dict(type='BN'),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss'),
    ),
    test_cfg=dict(mode='whole'),
)
"""


def write_pair(root: Path, name: str, seed: int, size: tuple[int, int] = (40, 48)) -> None:
    """An image whose three grey levels are the three classes, and its label map."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3, dtype=np.uint8), (size[0] + 2) // 3)[: size[0], None]
    labels = np.broadcast_to(labels, size)
    noise = generator.integers(0, 30, (*size, 3))
    image = (labels[..., None] * 100 + noise).astype(np.uint8)
    for folder in ('images', 'labels'):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(root / 'images' / f'{name}.png')
    Image.fromarray(np.ascontiguousarray(labels)).save(root / 'labels' / f'{name}.png')


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """Three labelled images of 48x40 pixels, of the test's own."""
    for index in range(3):
        write_pair(tmp_path / 'data', f'image_{index}', index)
    return tmp_path / 'data'


@pytest.fixture
def make_config(tmp_path: Path, data_root: Path) -> Callable[..., str]:
    """Writes the tiny config, with lines added at its end; its own name keeps the loggers of tests apart."""

    def write(*extra: str, name: str = 'tiny') -> str:
        path = tmp_path / f'{name}_{tmp_path.name}.py'
        path.write_text(CONFIG.format(root=str(data_root)) + '\n'.join(extra) + '\n')
        return str(path)

    return write


VERBS = {script: verb for verb, script in SCRIPTS.items()}


def call_tool(name: str, argv: Sequence[str]) -> int:
    """Runs a script of the tools folder in this process; returns its exit code."""
    return run_verb(VERBS.get(name, name), argv)


@pytest.fixture
def run_tool(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple]:
    """Runs a command in this process: (exit code, everything it wrote)."""
    monkeypatch.chdir(tmp_path)

    def run(tool: str, *arguments: str) -> tuple[int, str]:
        # Two runs of one config within a second have one name, and mmengine would go on with the first one's logger.
        for kind in (DefaultScope, MessageHub, MMLogger):
            kind._instance_dict.clear()
        capfd.readouterr()
        code = call_tool(tool, [str(argument) for argument in arguments])
        captured = capfd.readouterr()
        sys.stdout.write(captured.out[-4000:])
        sys.stdout.write(captured.err[-4000:])
        return code, captured.out + captured.err

    return run


@pytest.fixture(scope='session')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run: config.py, data, and work_dir with checkpoints of iterations 1 and 2."""
    root = tmp_path_factory.mktemp('trained')
    for index in range(3):
        write_pair(root / 'data', f'image_{index}', index)
    config = root / f'{root.name}.py'
    config.write_text(CONFIG.format(root=str(root / 'data')))
    code = call_tool('train', [str(config), '--work-dir', str(root / 'work_dir'), '--seed', '1'])
    assert code == 0
    shutil.copy(config, root / 'config.py')
    return root
