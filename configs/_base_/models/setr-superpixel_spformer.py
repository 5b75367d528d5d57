"""SETR with superpixel logits, SPFormer-S/16: every superpixel is classified, the association lifts the logits."""

model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type='mmvit_ext.SPFormer',
        arch='small',
        norm_cfg=dict(type='LN', eps=1e-6),
        drop_path_rate=0.1,
        out_association=True,
        init_cfg=dict(type='Pretrained', checkpoint='pretrain/spformer_small.pth', prefix='backbone.'),
    ),
    decode_head=dict(
        type='mmvit_ext.SuperpixelHead',
        in_channels=384,
        dropout_ratio=0.0,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='slide'),
)
tta_model = dict(type='SegTTAModel')
