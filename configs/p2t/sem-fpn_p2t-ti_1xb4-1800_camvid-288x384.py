"""Semantic FPN, P2T-Tiny, from scratch, CamVid with 11 classes.

No row of a paper. Data: see docs/real_photographs.md. Recipe: one process x 4 images, crops of 288x384, 1800 iterations,
classes weighted by the square root of their inverse frequency; the neck and the head are as wide as CamVid needs.
Command: mmvit train configs/p2t/sem-fpn_p2t-ti_1xb4-1800_camvid-288x384.py --amp --cfg-options data_root=PATH
"""

_base_ = [
    '../_base_/models/sem-fpn_p2t.py',
    '../_base_/datasets/camvid_288x384.py',
    '../_base_/default_runtime.py',
]

max_iters = 1800

model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone=dict(arch='tiny', init_cfg=None),
    neck=dict(in_channels=[48, 96, 240, 384], out_channels=128),
    decode_head=dict(
        in_channels=[128, 128, 128, 128],
        norm_cfg=dict(type='BN', requires_grad=True),
        num_classes={{_base_.num_classes}},
        loss_decode=dict(class_weight=[0.88, 0.75, 3.63, 0.64, 1.7, 1.15, 3.32, 3.39, 1.49, 4.5, 6.66]),
    ),
)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=600)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01),
    clip_grad=dict(max_norm=5, norm_type=2),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=100),
    dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False, begin=100, end=max_iters),
]
auto_scale_lr = dict(enable=False, base_batch_size=4)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=300, max_keep_ckpts=1))
