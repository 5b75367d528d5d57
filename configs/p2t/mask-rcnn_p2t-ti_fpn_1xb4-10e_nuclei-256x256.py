"""Mask R-CNN, P2T-Tiny, from scratch, cell nuclei.

No row of a paper. Data: see docs/real_photographs.md. Recipe: one process x 4 images, crops of 256x256, 10 epochs; the
neck and the heads are a quarter as wide as for COCO and train from scratch; anchors begin at 12 pixels.
Command: mmvit train configs/p2t/mask-rcnn_p2t-ti_fpn_1xb4-10e_nuclei-256x256.py --amp --cfg-options data_root=PATH
"""

_base_ = [
    '../_base_/models/mask-rcnn_p2t.py',
    '../_base_/datasets/nuclei_256x256.py',
    '../_base_/schedules/detection_1x.py',
    '../_base_/detection_runtime.py',
]

max_epochs = 10
width = 64
norm_cfg = dict(type='GN', num_groups=8)
proposals = dict(nms_pre=500, max_per_img=300)
roi_extractor = dict(out_channels=width, roi_layer=dict(sampling_ratio=2), finest_scale=28)

model = dict(
    data_preprocessor=dict(pad_value=-1),  # a patch of zeros has no variance, and the first norm would divide by it
    backbone=dict(arch='tiny', init_cfg=None),
    neck=dict(in_channels=[48, 96, 240, 384], out_channels=width, norm_cfg=norm_cfg),
    rpn_head=dict(in_channels=width, feat_channels=width, anchor_generator=dict(scales=[3])),
    roi_head=dict(
        bbox_roi_extractor=roi_extractor,
        bbox_head=dict(in_channels=width, fc_out_channels=256, num_classes={{_base_.num_classes}}),
        mask_roi_extractor=roi_extractor,
        mask_head=dict(
            in_channels=width,
            conv_out_channels=width,
            num_convs=2,
            num_classes={{_base_.num_classes}},
            norm_cfg=norm_cfg,
        ),
    ),
    train_cfg=dict(rpn_proposal=proposals, rcnn=dict(sampler=dict(num=128, pos_fraction=0.5))),
    test_cfg=dict(rpn=proposals, rcnn=dict(max_per_img=200)),
)
train_cfg = dict(max_epochs=max_epochs, val_interval=5)
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=0.05), clip_grad=dict(max_norm=10, norm_type=2))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=100),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=max_epochs, by_epoch=True, convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=False, base_batch_size=4)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=5, max_keep_ckpts=1))
