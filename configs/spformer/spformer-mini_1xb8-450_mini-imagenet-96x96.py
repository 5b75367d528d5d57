"""A small SPFormer, from scratch, on the mini dataset in ImageNet's layout.

No row of a paper. Data: tools/make_mini_dataset.py data/mini, 240 training images. Recipe: one process x 8 images of
96x96 pixels, 450 iterations, the budget and the augmentation of nest-mini.
Command: python tools/train.py configs/spformer/spformer-mini_1xb8-450_mini-imagenet-96x96.py
"""

_base_ = '../nest/nest-mini_1xb8-450_mini-imagenet-96x96.py'

embed_dims = 128

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvit_ext.SPFormer',
        arch='tiny',
        embed_dims=embed_dims,
        num_heads=4,
        depths=(2, 4),
        img_size={{_base_.img_size}},
        out_type='avg_featmap',
        norm_cfg=dict(type='LN', eps=1e-6),
        drop_path_rate=0.0,
    ),
    neck=None,
    head=dict(in_channels=embed_dims),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
