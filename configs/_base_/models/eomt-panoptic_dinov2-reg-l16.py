"""EoMT on DINOv2-L with registers for objects and stuff at 640x640 pixels, patches of 14 pixels resized to 16."""

num_things = 80
num_stuff = 53

model = dict(
    type='mmvit_ext.EoMTDetector',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_mask=True,
        pad_seg=True,
        seg_pad_value=255,
        pad_size_divisor=640,
    ),
    backbone=dict(
        type='mmvit_ext.TimmViT',
        model='vit_large_patch14_reg4_dinov2.lvd142m',
        checkpoint='timm',
        patch_size=16,
        img_size=(640, 640),
    ),
    panoptic_head=dict(
        type='mmvit_ext.EoMTPanopticHead',
        in_channels=1024,
        num_things_classes=num_things,
        num_stuff_classes=num_stuff,
        num_queries=200,
        num_blocks=4,
    ),
    panoptic_fusion_head=dict(
        type='MaskFormerFusionHead',
        num_things_classes=num_things,
        num_stuff_classes=num_stuff,
        loss_panoptic=None,
        init_cfg=None,
    ),
    train_cfg=dict(),
    test_cfg=dict(
        panoptic_on=True, instance_on=False, object_mask_thr=0.8, iou_thr=0.8, filter_low_score=True, max_per_image=100
    ),
)
