"""SegViT with QD alone, step (b) of the Shrunk ladder: one stage at stride 32. ViT-L/16, ADE20K.

Paper: arXiv 2210.05844; no published figure; the paper shows the ladder on ViT-B. Data: ADE20K, 640x640 crops.
Recipe: 8 GPUs x 2 images, 160k iterations. Not trained here.
Command: tools/dist_train.sh configs/segvit/segvit-qd_vit-l16_8xb2-160k_ade20k-640x640.py 8
"""

_base_ = [
    '../_base_/models/segvit_vit-l16.py',
    '../_base_/datasets/ade20k_640x640.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/segvit_160k.py',
]

crop_size = {{_base_.crop_size}}

model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(img_size=crop_size, type='mmvit_ext.ShrunkViT', shrink_index=8, out_indices=23),
    decode_head=dict(num_classes={{_base_.num_classes}}, in_channels=[1024], in_index=[0]),
    test_cfg=dict(crop_size=crop_size, stride=(608, 608)),
)
