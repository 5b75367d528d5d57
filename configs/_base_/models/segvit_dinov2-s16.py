"""SegViT with DINOv2-S (arXiv 2304.07193): class queries decode layers 5, 7 and 11 (counted from 0).

The patches of 14 pixels are resized to 16 when the weights are loaded: the crops of all datasets hold whole patches,
and the grid is that of SegViT's own ViT.
"""

_base_ = './segvit_vit-b16.py'

model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(
        _delete_=True,
        type='mmvit_ext.TimmViT',
        model='vit_small_patch14_dinov2.lvd142m',
        checkpoint='timm',
        patch_size=16,
        out_indices=(5, 7, 11),
        drop_path_rate=0.1,
    ),
    decode_head=dict(in_channels=[384, 384, 384], channels=192, num_heads=6),
)
