"""EoMT with a small plain ViT, from scratch, on the mini dataset in ADE20K's layout.

No row of a paper. Data: tools/make_mini_dataset.py data/mini. Recipe: one process x 8 images of 192x192 pixels, 300
iterations, a few minutes on two CPU cores; 30 queries join the last two of four layers.
Command: python tools/train.py configs/eomt/eomt_vit-mini_1xb8-300_mini-ade20k-192x192.py
"""

_base_ = ['../_base_/mini/ade20k_192x192.py', '../_base_/default_runtime.py']

max_iters = 300

model = dict(
    type='mmvit_ext.EoMT',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        size={{_base_.crop_size}},
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type='mmvit_ext.ViT',
        arch='tiny',
        embed_dims=128,
        num_layers=4,
        num_heads=4,
        img_size={{_base_.crop_size}},
        final_norm=True,
    ),
    decode_head=dict(
        type='mmvit_ext.EoMTHead',
        in_channels=128,
        num_classes=150,
        num_queries=30,
        num_blocks=2,
        num_upscale_blocks=1,
        num_points=1024,
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
tta_model = dict(type='mmvit_ext.ScoreTTAModel')
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=150)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.01),
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=50, end=max_iters),
]
auto_scale_lr = dict(enable=False, base_batch_size=8)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=150, max_keep_ckpts=1))
custom_hooks = [dict(type='mmvit_ext.MaskAnnealingHook')]
