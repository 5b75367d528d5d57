"""100 images of COCO's train2017 with objects and background, to be learnt by heart.

Tests are on the same images. Expected below `data_root`: what `python -m benchmarks.coco128_labels` writes;
docs/real_photographs.md has more.
"""

_base_ = ['./coco_panoptic.py', './coco_things.py']

data_root = 'data/coco128-labels'
img_scale = (518, 322)
metainfo = dict(classes=(*_base_.things, 'background'), thing_classes=_base_.things, stuff_classes=('background',))
annotations = dict(
    data_root=data_root,
    metainfo=metainfo,
    ann_file='annotations/panoptic_train2017.json',
    data_prefix=dict(img='train2017/', seg='annotations/panoptic_train2017/'),
)

load_image, load_labels = _base_.train_pipeline[:2]
train_pipeline = [
    load_image,
    load_labels,
    dict(type='Resize', scale=img_scale, keep_ratio=True),
    dict(type='PackDetInputs'),
]
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=img_scale)
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(**annotations, filter_cfg=dict(min_size=1), pipeline=train_pipeline),
)
val_dataloader = dict(num_workers=1, dataset=dict(**annotations, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = [
    dict(
        type='CocoPanopticMetric',
        ann_file=f'{data_root}/annotations/panoptic_train2017.json',
        seg_prefix=f'{data_root}/annotations/panoptic_train2017/',
    ),
    dict(type='CocoMetric', metric='segm', ann_file=f'{data_root}/annotations/instances_train2017.json'),
]
test_evaluator = val_evaluator
del annotations, load_image, load_labels  # of the config as a whole they are no parts
