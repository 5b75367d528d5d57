"""Cityscapes, 1024x1024 crops.

19 classes, 2975 training and 500 validation images of 2048x1024 pixels. Source: https://www.cityscapes-dataset.com, with
label maps made by mmseg's tools/dataset_converters/cityscapes.py. Expected below `data_root`:
`leftImg8bit/{train,val}/*/*_leftImg8bit.png` and `gtFine/{train,val}/*/*_gtFine_labelTrainIds.png`.
"""

data_root = 'data/cityscapes'
num_classes = 19
crop_size = (1024, 1024)
img_scale = (2048, 1024)

load_annotations = dict(type='mmvit_ext.LoadSegAnnotations')
train_pipeline = [
    dict(type='LoadImageFromFile', _scope_='mmvit_ext'),
    load_annotations,
    dict(type='RandomResize', scale=img_scale, ratio_range=(0.5, 2.0), keep_ratio=True),
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
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='CityscapesDataset',
        data_root=data_root,
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CityscapesDataset',
        data_root=data_root,
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
