"""RetinaNet with TNT-S: blocks 6, 9 and 12 brought to strides 8, 16 and 32, then what follows P2T, too."""

_base_ = './retinanet_p2t.py'

model = dict(
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5]),
    backbone=dict(
        _delete_=True,
        type='mmvit_ext.TNT',
        arch='small',
        out_indices=(5, 8, 11),
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='pretrain/tnt_small.pth', prefix='backbone.'),
    ),
    neck=[
        dict(type='mmvit_ext.PlainPyramid', in_channels=[384, 384, 384], scales=(2, 1, 0.5)),
        dict(
            type='FPN',
            in_channels=[384, 384, 384],
            out_channels=256,
            add_extra_convs='on_input',
            num_outs=5,
        ),
    ],
)
