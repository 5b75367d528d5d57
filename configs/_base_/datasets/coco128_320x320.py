"""100 images of COCO's train2017 with their masks, to see whether a recipe can learn real COCO by heart.

Training and tests are on the same images, none of them flipped. Source: the first 128 images of COCO, in COCO's form with masks. Expected
below `data_root`: `train2017/*.jpg` and `annotations/instances_train2017.json`; docs/real_photographs.md has more.
"""

_base_ = './coco_instance.py'

data_root = 'data/coco128'
img_scale = (533, 320)

train_pipeline = _base_.train_pipeline
train_pipeline[2].update(scale=img_scale)
train_pipeline[3].update(prob=0.0)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=img_scale)

train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    dataset=dict(data_root=data_root, pipeline=train_pipeline, filter_cfg=dict(min_size=1)),
)
val_dataloader = dict(
    num_workers=2,
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=f'{data_root}/annotations/instances_train2017.json')
test_evaluator = val_evaluator
