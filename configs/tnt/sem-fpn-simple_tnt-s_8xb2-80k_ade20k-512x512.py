"""Semantic FPN on the simple pyramid of ViTDet, TNT-S, ADE20K.

Papers: arXiv 2103.00112 and arXiv 2203.16527; neither has a row for it. All strides are made of the last block, without
a top-down path. Data: ADE20K, 512x512 crops. Recipe: that of P2T (arXiv 2106.12011), 8 GPUs x 2 images, 80k iterations
from ImageNet weights of the classification config here or the converted ones of the authors. Not trained here.
Command: tools/dist_train.sh configs/tnt/sem-fpn-simple_tnt-s_8xb2-80k_ade20k-512x512.py 8
"""

_base_ = [
    '../_base_/models/sem-fpn_tnt.py',
    '../_base_/datasets/ade20k-multiple32_512x512.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/sem-fpn_80k.py',
]

model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone=dict(out_indices=(11,)),
    neck=dict(_delete_=True, type='mmvit_ext.PlainPyramid', in_channels=384, out_channels=256),
    decode_head=dict(num_classes={{_base_.num_classes}}),
)
