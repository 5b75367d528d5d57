"""COCO-Stuff-10K, 512x512 crops.

171 classes, 9000 training and 1000 test images. Source: https://github.com/nightrome/cocostuff10k
(`cocostuff-10k-v1.1.zip`, converted with mmseg's `tools/dataset_converters/coco_stuff10k.py`). Expected below
`data_root`: `images/{train2014,test2014}/*.jpg` and `annotations/{train2014,test2014}/*_labelTrainIds.png`, where 0 is
unlabelled (ignored) and 1..171 are the classes.

In testing the shorter side is 512 pixels, and no less than that, the crop of the sliding window, at the scales below 1
of test-time augmentation.
"""

dataset_type = 'COCOStuffDataset'
data_root = 'data/coco_stuff10k'
num_classes = 171
reduce_zero_label = True
crop_size = (512, 512)
img_scale = (2048, 512)
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
        data_prefix=dict(img_path='images/train2014', seg_map_path='annotations/train2014'),
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
        data_prefix=dict(img_path='images/test2014', seg_map_path='annotations/test2014'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
