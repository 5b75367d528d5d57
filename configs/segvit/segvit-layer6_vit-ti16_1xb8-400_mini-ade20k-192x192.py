"""Step (a) of the Shrunk ladder on the mini dataset: SegViT on the last layer alone.

No row of a paper. Recipe: one process x 8 images of 192x192 pixels, 400 iterations from scratch. Every decoder layer is
supervised in all three steps: with the last one alone, step (a) stays at chance on so few iterations. The ladder is trained
and tabulated by benchmarks/shrunk_ladder.py, what it gives is in docs/benchmarks.md.
Command: python tools/train.py configs/segvit/segvit-layer6_vit-ti16_1xb8-400_mini-ade20k-192x192.py
"""

_base_ = './segvit_vit-ti16_1xb8-600_mini-ade20k-192x192.py'

max_iters = 400

train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=50, end=max_iters),
]
model = dict(
    backbone=dict(out_indices=5),
    decode_head=dict(in_channels=[192], in_index=[0], deep_supervision='layer'),
)
