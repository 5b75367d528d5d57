"""The same commands with a config of mmdet and one of mmpretrain."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Run = Callable[..., tuple[int, str]]

RUNTIME = """
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1, val_interval=1)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='SGD', lr=1e-3))
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(type='CheckpointHook', interval=1),
)
auto_scale_lr = dict(base_batch_size=2)
"""

DETECTION = (
    """
default_scope = 'mmdet'
metainfo = dict(classes=('square', 'bar'), palette=[(255, 0, 0), (0, 255, 0)])
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
dataset = dict(
    type='CocoDataset',
    data_root={root!r},
    ann_file='annotations.json',
    data_prefix=dict(img='images/'),
    metainfo=metainfo,
)
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(pipeline=pipeline, **dataset),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(pipeline=test_pipeline, test_mode=True, **dataset),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', ann_file={root!r} + '/annotations.json', metric='bbox')
test_evaluator = val_evaluator
visualizer = dict(type='DetLocalVisualizer', name='visualizer', vis_backends=[dict(type='LocalVisBackend')])
"""
    + RUNTIME
    + """
default_hooks['visualization'] = dict(type='DetVisualizationHook')
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3, pad_size_divisor=32),
    backbone=dict(type='ResNet', depth=18, base_channels=8),
    neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=8, num_outs=5),
    bbox_head=dict(
        type='RetinaHead',
        num_classes=2,
        in_channels=8,
        stacked_convs=1,
        feat_channels=8,
        anchor_generator=dict(
            type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1, ratios=[1.0], strides=[4, 8, 16, 32, 64]
        ),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True),
        loss_bbox=dict(type='L1Loss'),
    ),
    train_cfg=dict(
        assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4), allowed_border=-1, pos_weight=-1
    ),
    test_cfg=dict(nms_pre=100, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=10),
)
"""
)

CLASSIFICATION = (
    """
default_scope = 'mmpretrain'
data_preprocessor = dict(num_classes=2, mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True)
pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(32, 32)), dict(type='PackInputs')]
dataset = dict(type='CustomDataset', data_root={root!r}, classes=['dark', 'light'], pipeline=pipeline)
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True), dataset=dataset
)
val_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dataset
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1,))
test_evaluator = val_evaluator
visualizer = dict(type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
"""
    + RUNTIME
    + """
default_hooks['visualization'] = dict(type='VisualizationHook', enable=False)
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet', depth=18, base_channels=8, norm_cfg=dict(type='BN')),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=64, loss=dict(type='CrossEntropyLoss')),
)
"""
)


def write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def detection(tmp_path: Path) -> Path:
    root = tmp_path / 'coco'
    for index in range(2):
        write_image(root / 'images' / f'{index}.jpg', index)
    content = {
        'images': [{'id': index, 'file_name': f'{index}.jpg', 'height': 48, 'width': 64} for index in range(2)],
        'annotations': [
            {'id': index + 1, 'image_id': index, 'category_id': 1, 'bbox': [8, 8, 24, 24], 'area': 576, 'iscrowd': 0}
            for index in range(2)
        ],
        'categories': [{'id': 1, 'name': 'square'}, {'id': 2, 'name': 'bar'}],
    }
    (root / 'annotations.json').write_text(json.dumps(content))
    (tmp_path / 'detection.py').write_text(DETECTION.replace('{root!r}', repr(str(root))))
    return tmp_path / 'detection.py'


@pytest.fixture
def classification(tmp_path: Path) -> Path:
    for index, name in enumerate(('dark', 'light', 'dark', 'light')):
        write_image(tmp_path / 'folder' / name / f'{index}.jpg', index)
    (tmp_path / 'classification.py').write_text(CLASSIFICATION.replace('{root!r}', repr(str(tmp_path / 'folder'))))
    return tmp_path / 'classification.py'


def error_of(output: str) -> str:
    assert 'Traceback' not in output
    lines = [line for line in output.splitlines() if ': error: ' in line]
    assert len(lines) == 1, output[-2000:]
    return lines[0]


def test_detection_trains_evaluates_and_predicts(detection: Path, run_tool: Run) -> None:
    code, output = run_tool('train', detection, '--work-dir', 'runs')
    assert code == 0, output[-2000:]
    assert 'train_dataloader.dataset: 2 images, 0 without annotation, 2 classes' in output
    checkpoint = 'runs/epoch_1.pth'
    code, output = run_tool('test', detection, checkpoint, '--out', 'metrics.json', '--show-dir', 'shown')
    assert code == 0, output[-2000:]
    assert 'coco/bbox_mAP' in json.loads(Path('metrics.json').read_text())
    assert len(list(Path('shown').iterdir())) == 2
    code, output = run_tool('test', detection, checkpoint, '--out', 'predictions.pkl')
    assert code == 0, output[-2000:]
    assert Path('predictions.pkl').stat().st_size > 0
    code, output = run_tool('predict', detection, checkpoint, 'coco/images', '--out', 'out')
    assert code == 0, output[-2000:]
    assert Image.open('out/overlays/0.png').size == (512, 384)  # enlarged, so that names can be read
    code, output = run_tool('predict', detection, checkpoint, 'coco/images', '--out', 'plain', '--no-legend')
    assert code == 0, output[-2000:]
    assert Image.open('plain/overlays/0.png').size == (64, 48)


BAD_DETECTION = {
    'no annotation file': (
        ['data_root=coco', 'train_dataloader.dataset.ann_file=absent.json'],
        ['absent.json', 'ann_file'],
    ),
    'number of classes': (['model.bbox_head.num_classes=3'], ['model.bbox_head.num_classes is 3', '2 classes']),
    'type': (['model.neck.type=FPM'], ['FPM', 'FPN', 'model.neck.type']),
}


@pytest.mark.parametrize('case', BAD_DETECTION)
def test_a_bad_detection_config_ends_in_one_sentence(case: str, detection: Path, run_tool: Run) -> None:
    options, expected = BAD_DETECTION[case]
    code, output = run_tool(
        'train', detection, '--cfg-options', *[option for option in options if 'coco' not in option]
    )
    assert code == 2
    for part in expected:
        assert part in error_of(output)


def test_a_missing_detection_image_and_broken_annotations_are_named(detection: Path, run_tool: Run) -> None:
    (detection.parent / 'coco' / 'images' / '1.jpg').unlink()
    code, output = run_tool('train', detection)
    assert code == 2
    assert '1 of 2 images' in error_of(output)
    assert '1.jpg' in error_of(output)
    (detection.parent / 'coco' / 'annotations.json').write_text('{"images": [')
    code, output = run_tool('train', detection)
    assert code == 2
    assert 'annotations.json' in error_of(output)


def test_classification_trains_evaluates_and_predicts(classification: Path, run_tool: Run) -> None:
    code, output = run_tool('train', classification, '--work-dir', 'runs')
    assert code == 0, output[-2000:]
    # What mmpretrain's own train script adds to a config.
    assert "collate_fn=dict(type='default_collate')" in ''.join(Path('runs/classification.py').read_text().split())
    code, output = run_tool('test', classification, 'runs/epoch_1.pth', '--out', 'metrics.json', '--show-dir', 'shown')
    assert code == 0, output[-2000:]
    assert 'accuracy/top1' in json.loads(Path('metrics.json').read_text())
    assert len(list(Path('shown').rglob('*.*'))) > 0
    code, output = run_tool('predict', classification, 'runs/epoch_1.pth', 'folder/dark', '--out', 'out')
    assert code == 0, output[-2000:]
    assert len(list(Path('out/overlays').iterdir())) == 2


def test_a_wrong_number_of_classes_is_found_in_classification(classification: Path, run_tool: Run) -> None:
    code, output = run_tool('train', classification, '--cfg-options', 'model.head.num_classes=5')
    assert code == 2
    assert 'model.head.num_classes is 5' in error_of(output)
