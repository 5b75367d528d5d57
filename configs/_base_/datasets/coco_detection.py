"""COCO 2017 detection: boxes, images at 1333x800.

80 classes, 118287 training and 5000 validation images. Source: https://cocodataset.org. Expected below `data_root`:
`{train2017,val2017}/*.jpg` and `annotations/instances_{train2017,val2017}.json`.
"""

dataset_type = 'CocoDataset'
data_root = 'data/coco'
num_classes = 80
img_scale = (1333, 800)

train_pipeline = [
    dict(type='LoadImageFromFile', _scope_='mmvit_ext'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=img_scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
# The annotations are loaded after the resize: the metric compares at the size of the original image.
test_pipeline = [
    dict(type='LoadImageFromFile', _scope_='mmvit_ext'),
    dict(type='Resize', scale=img_scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]

train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', ann_file=f'{data_root}/annotations/instances_val2017.json', metric='bbox')
test_evaluator = val_evaluator
