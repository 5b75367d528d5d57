"""Naive SETR with a small TNT, from scratch, on the mini dataset in ADE20K's layout.

No row of a paper. Data: tools/make_mini_dataset.py data/mini. Recipe: one process x 8 images of 192x192 pixels, 300
iterations. The same budget as setr-naive_vit-mini, and as many parameters.
Command: python tools/train.py configs/tnt/setr-naive_tnt-mini_1xb8-300_mini-ade20k-192x192.py
"""

_base_ = [
    '../_base_/models/setr-naive_tnt.py',
    '../_base_/mini/ade20k_192x192.py',
    '../_base_/default_runtime.py',
    '../_base_/mini/schedule_300.py',
]

arch = dict(embed_dims_outer=192, embed_dims_inner=12, num_layers=6, num_heads_outer=3, num_heads_inner=2)

model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone=dict(_delete_=True, type='mmvit_ext.TNT', arch=arch, img_size={{_base_.crop_size}}, out_indices=-1),
    decode_head=dict(
        in_channels=192,
        norm_cfg=dict(type='BN', requires_grad=True),  # the synchronised one needs a GPU
        num_classes={{_base_.num_classes}},
    ),
    test_cfg=dict(mode='whole'),
)
train_cfg = dict(val_interval=50)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=150, max_keep_ckpts=1))
