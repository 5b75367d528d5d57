"""ADE20K (SceneParsing benchmark), 640x640 crops.

150 classes, 20210 training and 2000 validation images. Source: http://sceneparsing.csail.mit.edu
(`ADEChallengeData2016.zip`). Expected below `data_root`:
`images/{training,validation}/*.jpg` and `annotations/{training,validation}/*.png`, where 0 is 'other' (ignored) and
1..150 are the classes.
"""

dataset_type = 'ADE20KDataset'
data_root = 'data/ade/ADEChallengeData2016'
num_classes = 150
reduce_zero_label = True
crop_size = (640, 640)
img_scale = (2048, 640)
img_ratios = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]

load_annotations = dict(type='mmvit_ext.LoadSegAnnotations')  # the classes are the head's and the dataset's
train_pipeline = [
    dict(type='LoadImageFromFile', _scope_='mmvit_ext'),
    load_annotations,
    dict(type='RandomResize', scale=img_scale, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
# The annotations are loaded after the resize: the metric compares at the size of the original image.
test_pipeline = [
    dict(type='LoadImageFromFile', _scope_='mmvit_ext'),
    dict(type='Resize', scale=img_scale, keep_ratio=True),
    load_annotations,
    dict(type='PackSegInputs'),
]
tta_pipeline = [
    dict(type='LoadImageFromFile', _scope_='mmvit_ext'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=tuple(int(side * ratio) for side in img_scale), keep_ratio=True)
                for ratio in img_ratios
            ],
            [dict(type='RandomFlip', prob=prob, direction='horizontal') for prob in (0.0, 1.0)],
            [load_annotations],
            [dict(type='PackSegInputs')],
        ],
    ),
]

train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        reduce_zero_label=reduce_zero_label,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        reduce_zero_label=reduce_zero_label,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
