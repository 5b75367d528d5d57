"""EoMT on DINOv2-L with registers for semantic segmentation; patches of 14 pixels are resized to 16 when loaded."""

model = dict(
    type='mmvit_ext.EoMT',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        size=(512, 512),
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type='mmvit_ext.TimmViT',
        model='vit_large_patch14_reg4_dinov2.lvd142m',
        checkpoint='timm',
        patch_size=16,
        img_size=(512, 512),
    ),
    decode_head=dict(
        type='mmvit_ext.EoMTHead',
        in_channels=1024,
        num_classes=150,
        num_queries=100,
        num_blocks=4,
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(512, 512)),
)
tta_model = dict(type='mmvit_ext.ScoreTTAModel')
