"""Semantic FPN with a very small P2T, from scratch, on the mini dataset in ADE20K's layout.

No row of a paper. Data: tools/make_mini_dataset.py data/mini. Recipe: one process x 8 images of 192x192 pixels, 400
iterations.
Command: python tools/train.py configs/p2t/sem-fpn_p2t-mini_1xb8-400_mini-ade20k-192x192.py
"""

_base_ = [
    '../_base_/models/sem-fpn_p2t.py',
    '../_base_/datasets/ade20k-multiple32_512x512.py',
    '../_base_/default_runtime.py',
]

data_root = 'data/mini/ade/ADEChallengeData2016'
crop_size = (192, 192)
img_scale = (896, 224)
max_iters = 400
arch = dict(embed_dims=(32, 64, 128, 192), num_heads=(1, 2, 4, 6), depths=(1, 1, 2, 1), mlp_ratios=(4, 4, 4, 4))
norm_cfg = dict(type='BN', requires_grad=True)  # the synchronised one needs a GPU

model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(_delete_=True, type='mmvit_ext.P2T', arch=arch, drop_path_rate=0.0),
    neck=dict(in_channels=list(arch['embed_dims']), out_channels=64),
    decode_head=dict(
        in_channels=[64, 64, 64, 64],
        channels=64,
        dropout_ratio=0.0,
        norm_cfg=norm_cfg,
        num_classes={{_base_.num_classes}},
    ),
)
train_pipeline = _base_.train_pipeline
train_pipeline[2].update(scale=img_scale, ratio_range=(0.75, 1.5))
train_pipeline[3].update(crop_size=crop_size)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=img_scale)
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1]['transforms'][0] = [
    dict(type='Resize', scale=(int(img_scale[0] * ratio), int(img_scale[1] * ratio)), keep_ratio=True)
    for ratio in _base_.img_ratios
]
train_dataloader = dict(
    batch_size=8, num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root, pipeline=train_pipeline)
)
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root, pipeline=test_pipeline)
)
test_dataloader = val_dataloader

train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=200)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', power=0.9, eta_min=1e-6, by_epoch=False, begin=50, end=max_iters),
]
auto_scale_lr = dict(enable=False, base_batch_size=8)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=200, max_keep_ckpts=1))
