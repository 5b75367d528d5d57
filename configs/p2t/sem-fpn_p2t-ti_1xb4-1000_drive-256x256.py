"""Semantic FPN, P2T-Tiny, from scratch, vessels of DRIVE.

No row of a paper. Data: see docs/real_photographs.md. Recipe: one process x 4 images that are
enlarged twice, crops of 256x256, 1000 iterations, cross-entropy and Dice loss; there is no validation split, so the last checkpoint is
tested. Command: mmvit train configs/p2t/sem-fpn_p2t-ti_1xb4-1000_drive-256x256.py --amp --cfg-options data_root=PATH
"""

_base_ = [
    '../_base_/models/sem-fpn_p2t.py',
    '../_base_/datasets/drive_256x256.py',
    '../_base_/default_runtime.py',
]

max_iters = 1000

model = dict(
    # Statistics of the equalised retina, without the black around it. With those of ImageNet and without equalised
    # contrast this network learns nothing in 200 iterations in which a ResNet-18 does.
    data_preprocessor=dict(size={{_base_.crop_size}}, mean=[162.0, 119.0, 89.0], std=[48.0, 36.0, 28.0]),
    backbone=dict(arch='tiny', init_cfg=None),
    neck=dict(in_channels=[48, 96, 240, 384], out_channels=64),
    decode_head=dict(
        in_channels=[64, 64, 64, 64],
        channels=64,
        norm_cfg=dict(type='BN', requires_grad=True),
        num_classes={{_base_.num_classes}},
        loss_decode=[
            dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
            dict(type='DiceLoss', loss_weight=1.0),
        ],
    ),
)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01),
    clip_grad=dict(max_norm=5, norm_type=2),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False, begin=50, end=max_iters),
]
auto_scale_lr = dict(enable=False, base_batch_size=4)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=250, max_keep_ckpts=1))
