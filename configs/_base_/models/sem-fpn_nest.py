"""Semantic FPN with NesT-T, its fourth map of stride 32 included; what follows is that of P2T."""

_base_ = './sem-fpn_p2t.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvit_ext.NesT',
        arch='tiny',
        out_indices=(0, 1, 2, 3),
        extra_dims=768,
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='pretrain/nest_tiny.pth', prefix='backbone.'),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
