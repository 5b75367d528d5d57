"""100 images of COCO's train2017 with label maps of objects and background, to be learnt by heart.

Tests are on the same images. Expected below `data_root`: what `python -m benchmarks.coco128_labels` writes;
docs/real_photographs.md has more.
"""

_base_ = './coco_things.py'

data_root = 'data/coco128-labels'
crop_size = (322, 518)  # what most images fit into when they are resized; the others fit when turned
img_scale = crop_size[::-1]
num_classes = 81

load_annotations = dict(type='mmvit_ext.LoadSegAnnotations')
train_pipeline = [
    dict(type='LoadImageFromFile', _scope_='mmvit_ext'),
    load_annotations,
    dict(type='Resize', scale=img_scale, keep_ratio=True),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', _scope_='mmvit_ext'),
    dict(type='Resize', scale=img_scale, keep_ratio=True),
    load_annotations,
    dict(type='PackSegInputs'),
]
dataset = dict(
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=dict(classes=('background', *_base_.things)),
    data_prefix=dict(img_path='train2017', seg_map_path='annotations/semantic_train2017'),
)
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(**dataset, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**dataset, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmvit_ext.ClassIoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
del dataset  # of the config as a whole it is no part
