"""Semantic FPN on a pretrained ViT-S/14 for CamVid with 11 classes.

No row of a paper: heads on one backbone with one budget, see docs/real_photographs.md for data and weights.
Recipe: one process x 4 images, crops of 280x378 pixels, 400 iterations, the first six blocks frozen.
Command: mmvit train configs/segvit/sem-fpn_vit-s14_1xb4-400_camvid-280x378.py --amp --cfg-options data_root=PATH
"""

_base_ = [
    '../_base_/models/linear_vit-s14.py',
    '../_base_/datasets/camvid_280x378.py',
    '../_base_/schedules/photographs_400.py',
]

model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone=dict(img_size={{_base_.crop_size}}, out_indices=(2, 5, 8, 10)),
    neck=[
        dict(type='mmvit_ext.PlainPyramid', in_channels=[384, 384, 384, 384]),
        dict(type='FPN', in_channels=[384, 384, 384, 384], out_channels=256, num_outs=4),
    ],
    decode_head=dict(
        _delete_=True,
        type='mmvit_ext.FPNHead',
        in_channels=[256, 256, 256, 256],
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=128,
        dropout_ratio=0.1,
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        num_classes={{_base_.num_classes}},
    ),
)
