"""RetinaNet with a very small P2T, from scratch, on the mini dataset in COCO's layout.

No row of a paper. Data: tools/make_mini_dataset.py data/mini. Recipe: one process x 4 images that fit into 320x240
pixels, 6 epochs.
Command: python tools/train.py configs/p2t/retinanet_p2t-mini_fpn_1xb4-6e_mini-coco.py
"""

_base_ = [
    '../_base_/models/retinanet_p2t.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/detection_1x.py',
    '../_base_/detection_runtime.py',
]

data_root = 'data/mini/coco'
img_scale = (320, 240)
max_epochs = 6
arch = dict(embed_dims=(32, 64, 128, 192), num_heads=(1, 2, 4, 6), depths=(1, 1, 2, 1), mlp_ratios=(4, 4, 4, 4))

model = dict(
    backbone=dict(_delete_=True, type='mmvit_ext.P2T', arch=arch, drop_path_rate=0.0),
    neck=dict(in_channels=list(arch['embed_dims']), out_channels=64),
    bbox_head=dict(num_classes={{_base_.num_classes}}, in_channels=64, feat_channels=64, stacked_convs=2),
)
train_pipeline = _base_.train_pipeline
train_pipeline[2].update(scale=img_scale)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=img_scale)
train_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root, pipeline=train_pipeline)
)
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root, pipeline=test_pipeline)
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=f'{data_root}/annotations/instances_val2017.json')
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=5e-4), clip_grad=dict(max_norm=10, norm_type=2))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=50),
    dict(type='MultiStepLR', milestones=[4], gamma=0.1, by_epoch=True, begin=0, end=max_epochs),
]
auto_scale_lr = dict(enable=False, base_batch_size=4)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(max_keep_ckpts=1))
