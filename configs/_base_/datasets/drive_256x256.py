"""DRIVE, vessels of the retina, enlarged twice: crops of 256x256 pixels, whole images in tests.

20 training and 20 test images of 565x584 pixels, in the layout that mmseg's tools/dataset_converters/drive.py writes,
with images in JPEG. Vessels differ little from what is around them, so contrast is equalised in tiles first. A network that begins with patches of 4 pixels so works at stride 2 of the photographs.
"""

data_root = 'data/DRIVE'
crop_size = (256, 256)
img_scale = (1130, 1168)
num_classes = 2
suffixes = dict(img_suffix='.jpg')
contrast = dict(type='CLAHE', clip_limit=4.0, tile_grid_size=(8, 8))

load_annotations = dict(type='mmvit_ext.LoadSegAnnotations')
train_pipeline = [
    dict(type='LoadImageFromFile', _scope_='mmvit_ext'),
    contrast,
    load_annotations,
    dict(type='RandomResize', scale=img_scale, ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type='RandomRotate', prob=0.5, degree=30.0, seg_pad_val=255),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.95),
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', _scope_='mmvit_ext'),
    contrast,
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
        type='DRIVEDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline,
        **suffixes,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='DRIVEDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=test_pipeline,
        **suffixes,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmvit_ext.ClassIoUMetric', iou_metrics=['mIoU', 'mDice'])
test_evaluator = val_evaluator
