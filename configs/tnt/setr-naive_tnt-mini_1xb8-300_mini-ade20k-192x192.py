"""Naive SETR with a small TNT, from scratch, on the mini dataset in ADE20K's layout.

No row of a paper. Data: tools/make_mini_dataset.py data/mini. Recipe: one process x 8 images of 192x192 pixels, 300
iterations. The same budget as setr-naive_vit-mini, and as many parameters.
Command: python tools/train.py configs/tnt/setr-naive_tnt-mini_1xb8-300_mini-ade20k-192x192.py
"""

_base_ = [
    '../_base_/models/setr-naive_tnt.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/default_runtime.py',
]

data_root = 'data/mini/ade/ADEChallengeData2016'
crop_size = (192, 192)
img_scale = (896, 224)
max_iters = 300
arch = dict(embed_dims_outer=192, embed_dims_inner=12, num_layers=6, num_heads_outer=3, num_heads_inner=2)

model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(_delete_=True, type='mmvit_ext.TNT', arch=arch, img_size=crop_size, out_indices=-1),
    decode_head=dict(
        in_channels=192,
        norm_cfg=dict(type='BN', requires_grad=True),  # the synchronised one needs a GPU
        num_classes={{_base_.num_classes}},
    ),
    test_cfg=dict(mode='whole'),
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
tta_model = dict(type='SegTTAModel')

train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters // 6)
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
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=max_iters, max_keep_ckpts=1))
