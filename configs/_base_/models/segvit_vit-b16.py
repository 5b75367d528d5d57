"""SegViT with ViT-B/16: class queries decode layers 5, 7 and 11 (counted from 0)."""

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
        type='mmvit_ext.ViT',
        arch='base',
        patch_size=16,
        out_indices=(5, 7, 11),
        patch_bias=True,
        norm_cfg=dict(type='LN', eps=1e-6),
        with_cls_token=False,
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='pretrain/vit_base_p16_384.pth'),
    ),
    decode_head=dict(
        type='mmvit_ext.ATMHead',
        in_channels=[768, 768, 768],
        in_index=[0, 1, 2],
        channels=384,
        num_heads=12,
        num_layers=3,
        loss_decode=dict(type='mmvit_ext.ATMLoss'),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='slide'),
)
# What the head gives are scores, which the paper's multi-scale figures average as they are.
tta_model = dict(type='mmvit_ext.ScoreTTAModel')
