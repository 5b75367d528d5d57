"""Ablation: four decoded layers. ViT-B/16, ADE20K.

Paper: arXiv 2210.05844; published 51.2 mIoU. Data: ADE20K, 512x512 crops. Recipe: 8 GPUs x 2 images, 160k iterations.
Not trained here. Which ViT-B weights the figure began with is not settled: see the README.
Command: tools/dist_train.sh configs/segvit/segvit-layers3-6-9-12_vit-b16_8xb2-160k_ade20k-512x512.py 8
"""

_base_ = [
    '../_base_/models/segvit_vit-b16.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/segvit_160k.py',
]

crop_size = {{_base_.crop_size}}

model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(img_size=crop_size, out_indices=(2, 5, 8, 11)),
    decode_head=dict(num_classes={{_base_.num_classes}}, in_channels=[768] * 4, in_index=[0, 1, 2, 3]),
    test_cfg=dict(crop_size=crop_size, stride=(341, 341)),
)
