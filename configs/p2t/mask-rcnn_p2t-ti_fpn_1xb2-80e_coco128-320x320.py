"""Mask R-CNN, P2T-Tiny, from scratch, 100 images of COCO, on which it is also tested: to be learnt by heart.

No row of a paper. Data: see docs/real_photographs.md. Recipe: one process x 2 images within 533x320 pixels, 80 epochs without
flips, drop path and weight decay. The backbone has a fifth of the learning rate of the heads: with 1e-3 for both its
features soon lay in a few directions (docs/real_photographs.md). The neck and the heads are narrower than for COCO; all
classes share the regression of boxes and the masks, as most have few objects; the box head begins with two convolutions;
anchors begin at 16 pixels.
Command: mmvit train configs/p2t/mask-rcnn_p2t-ti_fpn_1xb2-80e_coco128-320x320.py --amp --cfg-options data_root=PATH
"""

_base_ = [
    '../_base_/models/mask-rcnn_p2t.py',
    '../_base_/datasets/coco128_320x320.py',
    '../_base_/schedules/detection_1x.py',
    '../_base_/detection_runtime.py',
]

max_epochs = 80
width = 96
norm_cfg = dict(type='GN', num_groups=8)
proposals = dict(nms_pre=500, max_per_img=300)
roi_extractor = dict(out_channels=width, roi_layer=dict(sampling_ratio=2), finest_scale=28)

model = dict(
    data_preprocessor=dict(pad_value=-1),  # a patch of zeros has no variance, and the first norm would divide by it
    backbone=dict(arch='tiny', drop_path_rate=0.0, init_cfg=None),
    neck=dict(in_channels=[48, 96, 240, 384], out_channels=width, norm_cfg=norm_cfg),
    rpn_head=dict(in_channels=width, feat_channels=width, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=roi_extractor,
        bbox_head=dict(
            type='ConvFCBBoxHead',
            in_channels=width,
            num_shared_convs=2,
            conv_out_channels=width,
            num_shared_fcs=1,
            fc_out_channels=256,
            norm_cfg=norm_cfg,
            num_classes=80,
            reg_class_agnostic=True,
        ),
        mask_roi_extractor=roi_extractor,
        mask_head=dict(
            in_channels=width,
            conv_out_channels=width,
            num_convs=2,
            num_classes=80,
            class_agnostic=True,
            norm_cfg=norm_cfg,
        ),
    ),
    train_cfg=dict(rpn_proposal=proposals, rcnn=dict(sampler=dict(num=64, pos_fraction=0.5))),
    test_cfg=dict(rpn=proposals, rcnn=dict(max_per_img=100)),
)
train_dataloader = dict(batch_size=2)
train_cfg = dict(max_epochs=max_epochs, val_interval=20)
optim_wrapper = dict(
    optimizer=dict(lr=5e-4, weight_decay=0.0),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.2))),
    clip_grad=dict(max_norm=10, norm_type=2),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=200),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=max_epochs, by_epoch=True, convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=False, base_batch_size=2)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=10, max_keep_ckpts=1))
