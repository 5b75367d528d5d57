"""EoMT for objects with a small plain ViT, from scratch, on the mini dataset in COCO's layout.

No row of a paper. Data: tools/make_mini_dataset.py data/mini. Recipe: one process x 8 images about as large as they
are, 20 epochs, a few minutes on two CPU cores; 20 queries join the last two of five layers.
Command: python tools/train.py configs/eomt/eomt-instance_vit-mini_1xb8-20e_mini-coco.py
"""

_base_ = [
    '../_base_/models/eomt-panoptic_dinov2-reg-l16.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/detection_1x.py',
    '../_base_/detection_runtime.py',
]

data_root = 'data/mini/coco'
img_scale = (384, 160)
crop_size = (192, 192)
max_epochs = 20

model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5], pad_seg=False, pad_size_divisor=32),
    backbone=dict(
        _delete_=True,
        type='mmvit_ext.ViT',
        arch='tiny',
        embed_dims=128,
        num_layers=5,
        num_heads=4,
        img_size=crop_size,
        final_norm=True,
    ),
    panoptic_head=dict(in_channels=128, num_stuff_classes=0, num_queries=20, num_blocks=2, num_points=1024),
    panoptic_fusion_head=dict(num_stuff_classes=0),
    test_cfg=dict(panoptic_on=False, instance_on=True, max_per_image=20),
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
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=max_epochs // 2, max_keep_ckpts=1, save_best='coco/segm_mAP')
)
custom_hooks = [dict(type='mmvit_ext.MaskAnnealingHook')]
