"""RetinaNet, P2T-Tiny, from scratch, blood cells of BCCD.

No row of a paper. Data: see docs/real_photographs.md. Recipe: one process x 4 images of about 320x240, 20 epochs; the
neck and the head are half as wide as for COCO, with norms that train from scratch.
Command: mmvit train configs/p2t/retinanet_p2t-ti_fpn_1xb4-20e_bccd-240x320.py --amp --cfg-options data_root=PATH
"""

_base_ = [
    '../_base_/models/retinanet_p2t.py',
    '../_base_/datasets/bccd_240x320.py',
    '../_base_/schedules/detection_1x.py',
    '../_base_/detection_runtime.py',
]

max_epochs = 20
width = 128
norm_cfg = dict(type='GN', num_groups=8)

model = dict(
    data_preprocessor=dict(pad_value=-1),  # a patch of zeros has no variance, and the first norm would divide by it
    backbone=dict(arch='tiny', init_cfg=None),
    neck=dict(in_channels=[48, 96, 240, 384], out_channels=width, norm_cfg=norm_cfg),
    bbox_head=dict(
        num_classes={{_base_.num_classes}},
        in_channels=width,
        feat_channels=width,
        stacked_convs=2,
        norm_cfg=norm_cfg,
    ),
)
train_cfg = dict(max_epochs=max_epochs, val_interval=5)
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=0.05), clip_grad=dict(max_norm=10, norm_type=2))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=max_epochs, by_epoch=True, convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=False, base_batch_size=4)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=5, max_keep_ckpts=1))
