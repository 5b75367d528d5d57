"""Naive SETR with DeiT-S/16: the last layer's patches are classified, the logits resized."""

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
        type='mmvit_ext.ViT',
        arch='small',
        patch_size=16,
        patch_bias=True,
        norm_cfg=dict(type='LN', eps=1e-6),
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='pretrain/deit_small.pth'),
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
