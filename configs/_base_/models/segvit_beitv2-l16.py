"""SegViT with BEiT v2-L (arXiv 2208.06366): class queries decode layers 7, 15 and 23 (counted from 0)."""

_base_ = './segvit_vit-l16.py'

model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(
        _delete_=True,
        type='mmvit_ext.TimmViT',
        model='beitv2_large_patch16_224.in1k_ft_in22k',
        checkpoint='timm',
        out_indices=(7, 15, 23),
        drop_path_rate=0.2,
    ),
)
