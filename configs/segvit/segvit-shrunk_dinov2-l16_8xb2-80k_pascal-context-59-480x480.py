"""SegViT Shrunk, DINOv2-L, PASCAL-Context with 59 classes, without the background.

Papers: arXiv 2210.05844 and 2304.07193; neither has a row for it. Data: PASCAL-Context, 59 classes, 480x480 crops.
Recipe: 8 GPUs x 2 images, 80k iterations; learning rate, weight decay and decay by depth are those of arXiv 2503.19108,
which fine-tunes DINOv2 for segmentation. Not trained here.
Command: tools/dist_train.sh configs/segvit/segvit-shrunk_dinov2-l16_8xb2-80k_pascal-context-59-480x480.py 8
"""

_base_ = [
    '../_base_/models/segvit_dinov2-l16.py',
    '../_base_/datasets/pascal-context-59_480x480.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/segvit-layer-decay_80k.py',
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
    test_cfg=dict(crop_size=crop_size, stride=(320, 320)),
)
