"""SegViT's Shrunk structure with ViT-B/16: layer 6 (counted from 0) halves the grid, two levels of QU restore it.

The paper shrinks at a third of the depth, which would be layer 4. Its operation counts for ViT-B (74.1 G with QD alone,
97.1 G with QU) are those of layer 6: 73.7 G and 96.8 G are counted here, against 59.8 G and 82.9 G at layer 4.
"""

_base_ = './segvit_vit-b16.py'

model = dict(
    backbone=dict(type='mmvit_ext.ShrunkViT', shrink_index=6, out_indices=(5, 11)),
    decode_head=dict(type='mmvit_ext.ShrunkATMHead', in_channels=[768, 768], in_index=[0, 1]),
)
# What the head gives are scores, which the paper's multi-scale figures average as they are.
tta_model = dict(type='mmvit_ext.ScoreTTAModel')
