"""SegViT's decoder on a hierarchical backbone: Swin-T, ADE20K.

Paper: arXiv 2210.05844; published 47.1 mIoU, 48.0 GFLOPs. Data: ADE20K, 512x512 crops. Recipe: 8 GPUs x 2 images, 160k
iterations. Not trained here. Which maps are decoded and how wide the head is was chosen by the published count: the
last three (strides 32, 16, 8) at width 512 give 48.6 G (all four at width 256 would give 48.4 G). The sliding window's
stride is that of the authors' base file for ViT-B, by analogy.
Command: tools/dist_train.sh configs/segvit/segvit_swin-t_8xb2-160k_ade20k-512x512.py 8
"""

_base_ = [
    '../_base_/models/segvit_vit-b16.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/segvit_160k.py',
]

crop_size = {{_base_.crop_size}}

model = dict(
    data_preprocessor=dict(size=crop_size, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(
        _delete_=True,
        type='SwinTransformer',
        embed_dims=96,
        depths=(2, 2, 6, 2),
        num_heads=(3, 6, 12, 24),
        window_size=7,
        out_indices=(1, 2, 3),  # a map that is not decoded would leave its norm without a gradient
        drop_path_rate=0.3,
        patch_norm=True,
        init_cfg=dict(type='Pretrained', checkpoint='pretrain/swin_tiny_patch4_window7_224.pth'),
    ),
    decode_head=dict(
        in_channels=[192, 384, 768],
        in_index=[0, 1, 2],
        channels=512,
        num_heads=16,
        num_classes={{_base_.num_classes}},
    ),
    test_cfg=dict(crop_size=crop_size, stride=(341, 341)),
)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys=dict(_delete_=True, norm=dict(decay_mult=0.0), head=dict(lr_mult=10.0)))
)
