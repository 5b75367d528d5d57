"""A very small P2T, from scratch, on the mini dataset in ImageNet's layout.

No row of a paper. Data: tools/make_mini_dataset.py data/mini, 240 training images. Recipe: one process x 8 images of
96x96 pixels, 450 iterations, the budget and the augmentation of nest-mini. The classifier's layer learns ten times as fast
as the network: P2T has no norm before it, and at one rate for both the same recipe ends 5 to 15 points lower.
Command: python tools/train.py configs/p2t/p2t-mini_1xb8-450_mini-imagenet-96x96.py
"""

_base_ = [
    '../_base_/models/classifier_p2t.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/classification_runtime.py',
]

data_root = 'data/mini/imagenet'
img_size = 96
test_size = 110
max_iters = 450
arch = dict(embed_dims=(32, 64, 128, 192), num_heads=(1, 2, 4, 6), depths=(1, 1, 2, 1), mlp_ratios=(4, 4, 4, 4))

model = dict(
    backbone=dict(_delete_=True, type='mmvit_ext.P2T', arch=arch, out_indices=(3,), drop_path_rate=0.0),
    head=dict(in_channels=arch['embed_dims'][3], num_classes={{_base_.num_classes}}),
    train_cfg=None,
)
# Without the augmentation that is made for a million images and hundreds of epochs.
train_pipeline = [
    dict(type='LoadImageFromFile', _scope_='mmvit_ext'),
    dict(type='RandomResizedCrop', scale=img_size, crop_ratio_range=(0.5, 1.0), backend='pillow'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=test_size)
test_pipeline[2].update(crop_size=img_size)
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True),
    dataset=dict(data_root=data_root, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=8, num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root, pipeline=test_pipeline)
)
test_dataloader = val_dataloader

train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=45)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2.5e-4, weight_decay=0.05),
    paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=10.0))),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=20),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=False, begin=20, end=max_iters),
]
auto_scale_lr = dict(enable=False, base_batch_size=8)
default_hooks = dict(
    logger=dict(interval=10, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=max_iters, max_keep_ckpts=1),
)
log_processor = dict(by_epoch=False)
