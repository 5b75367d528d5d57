"""SegViT Shrunk, DINOv2-S, ADE20K.

Papers: arXiv 2210.05844 and 2304.07193; neither has a row for it. Data: ADE20K, 512x512 crops. Recipe: 8 GPUs x 2
images, 160k iterations; learning rate, weight decay and decay by depth are those of arXiv 2503.19108, which fine-tunes
DINOv2 for segmentation. Not trained here.
Command: tools/dist_train.sh configs/segvit/segvit-shrunk_dinov2-s16_8xb2-160k_ade20k-512x512.py 8
"""

_base_ = [
    '../_base_/models/segvit_dinov2-s16.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/segvit-layer-decay_160k.py',
]

crop_size = {{_base_.crop_size}}

model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(img_size=crop_size, shrink_index=6, out_indices=(5, 11)),
    decode_head=dict(
        type='mmvit_ext.ShrunkATMHead',
        in_channels=[384, 384],
        in_index=[0, 1],
        img_size=crop_size,
        query_start='tokens',
        num_classes={{_base_.num_classes}},
    ),
    test_cfg=dict(crop_size=crop_size, stride=(341, 341)),
)
