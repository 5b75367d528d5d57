"""SegViT with a small plain ViT, from scratch, on the mini dataset in ADE20K's layout: what `make demo` trains.

No row of a paper. Data: tools/make_mini_dataset.py data/mini. Recipe: one process x 8 images of 192x192 pixels, 600
iterations, a few minutes on two CPU cores. What it reaches is in docs/demo.md.
Command: python tools/train.py configs/segvit/segvit_vit-ti16_1xb8-600_mini-ade20k-192x192.py
"""

_base_ = ['../_base_/models/segvit_vit-b16.py', '../_base_/mini/ade20k_192x192.py', '../_base_/default_runtime.py']

max_iters = 600

model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone=dict(
        arch='tiny',
        num_layers=6,
        img_size={{_base_.crop_size}},
        out_indices=(1, 3, 5),
        drop_path_rate=0.0,
        init_cfg=None,
    ),
    decode_head=dict(in_channels=[192, 192, 192], channels=96, num_heads=3, num_classes=150, dropout_ratio=0.0),
    test_cfg=dict(mode='whole'),
)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=200)
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
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=200, max_keep_ckpts=1))
