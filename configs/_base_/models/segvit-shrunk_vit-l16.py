"""SegViT's Shrunk structure with ViT-L/16: layer 8 (counted from 0) halves the grid, two levels of QU restore it."""

_base_ = './segvit_vit-l16.py'

model = dict(
    backbone=dict(type='mmvit_ext.ShrunkViT', shrink_index=8, out_indices=(7, 23)),
    decode_head=dict(type='mmvit_ext.ShrunkATMHead', in_channels=[1024, 1024], in_index=[0, 1]),
)
# What the head gives are scores, which the paper's multi-scale figures average as they are.
tta_model = dict(type='mmvit_ext.ScoreTTAModel')
