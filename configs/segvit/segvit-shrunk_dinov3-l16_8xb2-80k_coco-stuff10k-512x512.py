"""SegViT Shrunk, DINOv3-L, COCO-Stuff-10K.

Papers: arXiv 2210.05844 and 2508.10104; neither has a row for it. Data: COCO-Stuff-10K, 512x512 crops. Recipe: 8 GPUs x
2 images, 80k iterations, poly power 2; learning rates are those of the authors of arXiv 2503.19108 for DINOv3, which
are SegViT's (2e-5, heads 2e-4), and weight decay 0.05 is theirs. Not trained here.
Command: tools/dist_train.sh configs/segvit/segvit-shrunk_dinov3-l16_8xb2-80k_coco-stuff10k-512x512.py 8
"""

_base_ = [
    '../_base_/models/segvit_dinov3-l16.py',
    '../_base_/datasets/coco-stuff10k_512x512.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/segvit_80k.py',
]

crop_size = {{_base_.crop_size}}

model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(img_size=crop_size, shrink_index=8, out_indices=(7, 23)),
    decode_head=dict(
        type='mmvit_ext.ShrunkATMHead',
        in_channels=[1024, 1024],
        in_index=[0, 1],
        img_size=crop_size,
        query_start='tokens',
        num_classes={{_base_.num_classes}},
    ),
    test_cfg=dict(crop_size=crop_size, stride=(341, 341)),
)
optim_wrapper = dict(
    optimizer=dict(weight_decay=0.05),
    paramwise_cfg=dict(custom_keys=dict(_delete_=True, norm=dict(decay_mult=0.0), head=dict(lr_mult=10.0))),
)
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(power=2.0)
