"""BCCD detection of blood cells: boxes, images of 640x480 at half their size, 3 classes.

205 training, 87 validation and 72 test images. Source: https://github.com/Shenggan/BCCD_Dataset (MIT). Expected below
`data_root`: `images/*.jpg` and `annotations/{train,val,test}.json` in COCO's form; docs/real_photographs.md has more.
"""

_base_ = './coco_detection.py'

data_root = 'data/bccd'
classes = ('RBC', 'WBC', 'Platelets')
num_classes = len(classes)
img_scale = (320, 240)

train_pipeline = _base_.train_pipeline
train_pipeline[2:4] = [
    dict(type='RandomResize', scale=img_scale, ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1)),
]
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=img_scale)

split = dict(data_root=data_root, metainfo=dict(classes=classes), data_prefix=dict(img='images/'))
train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    dataset=dict(ann_file='annotations/train.json', pipeline=train_pipeline, filter_cfg=dict(min_size=1), **split),
)
val_dataloader = dict(num_workers=2, dataset=dict(ann_file='annotations/val.json', pipeline=test_pipeline, **split))
test_dataloader = dict(num_workers=2, dataset=dict(ann_file='annotations/test.json', pipeline=test_pipeline, **split))
val_evaluator = dict(ann_file=f'{data_root}/annotations/val.json')
test_evaluator = dict(ann_file=f'{data_root}/annotations/test.json')
