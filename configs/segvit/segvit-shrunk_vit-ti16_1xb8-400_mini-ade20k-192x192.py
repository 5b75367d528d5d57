"""Step (c) of the Shrunk ladder on the mini dataset: QD and two levels of QU.

No row of a paper. Recipe: one process x 8 images of 192x192 pixels, 400 iterations from scratch, with queries of QU that
begin as the fine tokens: learned ones learn nothing on so few iterations. The ladder is trained and tabulated by
benchmarks/shrunk_ladder.py, what it gives is in docs/benchmarks.md.
Command: python tools/train.py configs/segvit/segvit-shrunk_vit-ti16_1xb8-400_mini-ade20k-192x192.py
"""

_base_ = './segvit_vit-ti16_1xb8-600_mini-ade20k-192x192.py'

max_iters = 400

train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=50, end=max_iters),
]
model = dict(
    backbone=dict(type='mmvit_ext.ShrunkViT', shrink_index=2, out_indices=(1, 5)),
    decode_head=dict(
        type='mmvit_ext.ShrunkATMHead',
        in_channels=[192, 192],
        in_index=[0, 1],
        img_size={{_base_.crop_size}},
        query_start='tokens',
    ),
)
