"""Mask R-CNN with a very small P2T, from scratch, on the mini dataset in COCO's layout: what `make demo-det` trains.

No row of a paper. Data: tools/make_mini_dataset.py data/mini. Recipe: one process x 8 images about as large as they are,
20 epochs, a few minutes on two CPU cores. What it reaches is in docs/demo.md.
Command: python tools/train.py configs/p2t/mask-rcnn_p2t-mini_fpn_1xb8-20e_mini-coco.py
"""

_base_ = [
    '../_base_/models/mask-rcnn_p2t.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/detection_1x.py',
    '../_base_/detection_runtime.py',
]

data_root = 'data/mini/coco'
img_scale = (384, 160)
crop_size = (192, 192)
max_epochs = 20
arch = dict(embed_dims=(32, 64, 128, 192), num_heads=(1, 2, 4, 6), depths=(1, 1, 2, 1), mlp_ratios=(4, 4, 4, 4))
width = 64
norm_cfg = dict(type='GN', num_groups=8)  # trains from scratch, and whatever the number of regions
# Half of the time goes into pooling and suppressing regions, so there are few of them, with one sample per cell.
proposals = dict(nms_pre=300, max_per_img=100)
roi_extractor = dict(out_channels=width, roi_layer=dict(sampling_ratio=1), finest_scale=28)

model = dict(
    backbone=dict(_delete_=True, type='mmvit_ext.P2T', arch=arch, drop_path_rate=0.0),
    neck=dict(in_channels=list(arch['embed_dims']), out_channels=width, norm_cfg=norm_cfg),
    rpn_head=dict(in_channels=width, feat_channels=width, anchor_generator=dict(scales=[6])),
    roi_head=dict(
        bbox_roi_extractor=roi_extractor,
        bbox_head=dict(in_channels=width, fc_out_channels=256, reg_class_agnostic=True),
        mask_roi_extractor=roi_extractor,
        mask_head=dict(in_channels=width, conv_out_channels=width, num_convs=2, norm_cfg=norm_cfg),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=proposals,
        rcnn=dict(sampler=dict(num=32, pos_fraction=0.5)),
    ),
    test_cfg=dict(rpn=proposals, rcnn=dict(max_per_img=20)),
)

train_pipeline = _base_.train_pipeline
train_pipeline[2:3] = [
    dict(type='RandomResize', scale=img_scale, ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, recompute_bbox=True),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(4, 4)),
]
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=img_scale)
train_dataloader = dict(
    batch_size=8, num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root, pipeline=train_pipeline)
)
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root, pipeline=test_pipeline)
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=f'{data_root}/annotations/instances_val2017.json')
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs // 2)
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=0.05), clip_grad=dict(max_norm=10, norm_type=2))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=max_epochs, by_epoch=True, convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=False, base_batch_size=8)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=max_epochs // 2, max_keep_ckpts=1))
