"""PASCAL-Context, 59 classes (without the background), 480x480 crops.

4996 training and 5104 validation images. Source: https://cs.stanford.edu/~roozbeh/pascal-context and PASCAL VOC 2010
(converted with mmseg's `tools/dataset_converters/pascal_context.py`). Expected below `data_root`: `JPEGImages/*.jpg`,
`SegmentationClassContext/*.png`, where 0 is the background (ignored) and 1..59 are the classes, and the lists
`ImageSets/SegmentationContext/{train,val}.txt`.

In testing the shorter side is 520 pixels, and at least 480, the crop of the sliding window, at every scale of
test-time augmentation.
"""

dataset_type = 'PascalContextDataset59'
data_root = 'data/VOCdevkit/VOC2010'
num_classes = 59
reduce_zero_label = True
crop_size = (480, 480)
img_scale = (520, 520)
# Bound of the longer side in testing, in pixels: far beyond what images of ordinary shape reach.
max_size = 4096
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
    dict(type='ResizeShortestEdge', scale=max(img_scale[1], crop_size[1]), max_size=max_size),
    load_annotations,
    dict(type='PackSegInputs'),
]
tta_pipeline = [
    dict(type='LoadImageFromFile', _scope_='mmvit_ext'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='ResizeShortestEdge', scale=max(int(img_scale[1] * ratio), crop_size[1]), max_size=max_size)
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
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClassContext'),
        ann_file='ImageSets/SegmentationContext/train.txt',
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
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClassContext'),
        ann_file='ImageSets/SegmentationContext/val.txt',
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
