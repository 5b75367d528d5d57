"""Naive SETR with TNT-S: the last block's patches are classified, the logits resized."""

model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type='mmvit_ext.TNT',
        arch='small',
        out_indices=(11,),
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='pretrain/tnt_small.pth', prefix='backbone.'),
    ),
    decode_head=dict(
        type='mmvit_ext.SETRUPHead',
        in_channels=384,
        channels=256,
        in_index=0,
        num_convs=1,
        up_scale=4,
        kernel_size=1,
        dropout_ratio=0.0,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='slide'),
)
tta_model = dict(type='SegTTAModel')
