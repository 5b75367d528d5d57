"""SegViT with ViT-L/16: class queries decode layers 7, 15 and 23 (counted from 0)."""

_base_ = './segvit_vit-b16.py'

model = dict(
    backbone=dict(
        arch='large',
        out_indices=(7, 15, 23),
        drop_path_rate=0.3,
        init_cfg=dict(type='Pretrained', checkpoint='pretrain/vit_large_p16_384.pth'),
    ),
    decode_head=dict(in_channels=[1024, 1024, 1024], channels=512, num_heads=16),
)
