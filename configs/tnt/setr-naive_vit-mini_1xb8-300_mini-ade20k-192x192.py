"""Naive SETR with a plain ViT, from scratch, on the mini dataset in ADE20K's layout: the baseline of setr-naive_tnt-mini.

No row of a paper. Data: tools/make_mini_dataset.py data/mini. Recipe: one process x 8 images of 192x192 pixels, 300
iterations. As many blocks of the same width; the hidden layers are a little wider, so that the parameters are as many.
Command: python tools/train.py configs/tnt/setr-naive_vit-mini_1xb8-300_mini-ade20k-192x192.py
"""

_base_ = './setr-naive_tnt-mini_1xb8-300_mini-ade20k-192x192.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvit_ext.ViT',
        arch='tiny',
        num_layers=6,
        mlp_ratio=4.25,
        final_norm=True,
        patch_size=16,
        patch_bias=True,
        norm_cfg=dict(type='LN', eps=1e-6),
        img_size={{_base_.crop_size}},
    ),
)
