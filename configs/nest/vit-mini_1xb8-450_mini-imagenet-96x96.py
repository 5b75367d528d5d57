"""A small plain ViT, from scratch, on the mini dataset in ImageNet's layout: the baseline of nest-mini.

No row of a paper. Data: tools/make_mini_dataset.py data/mini, 240 training images. Recipe: one process x 8 images of
96x96 pixels, 450 iterations. Fewer training images as in nest-mini.
Command: python tools/train.py configs/nest/vit-mini_1xb8-450_mini-imagenet-96x96.py
"""

_base_ = './nest-mini_1xb8-450_mini-imagenet-96x96.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvit_ext.ViT',
        arch='tiny',
        embed_dims=192,
        num_layers=7,
        num_heads=3,
        mlp_ratio=4.25,
        patch_size=8,
        patch_bias=True,
        final_norm=True,
        norm_cfg=dict(type='LN', eps=1e-6),
        img_size={{_base_.img_size}},
    ),
    head=dict(in_channels=192),
)
optim_wrapper = dict(optimizer=dict(lr=5e-4))  # why another one: see nest-mini
