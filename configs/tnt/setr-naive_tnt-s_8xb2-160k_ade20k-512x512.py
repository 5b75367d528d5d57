"""Naive SETR, TNT-S, ADE20K.

Paper: arXiv 2103.00112; the paper has no row for it. Data: ADE20K, 512x512 crops. Recipe: 8 GPUs x 2 images, 160k
iterations from ImageNet weights of the classification config here or the converted ones of the authors; optimiser,
schedule and the window's step (two thirds of the crop) are those of mmseg's naive SETR on ADE20K; no auxiliary heads.
Not trained here.
Command: tools/dist_train.sh configs/tnt/setr-naive_tnt-s_8xb2-160k_ade20k-512x512.py 8
"""

_base_ = [
    '../_base_/models/setr-naive_tnt.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/setr_160k.py',
]

crop_size = {{_base_.crop_size}}

model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(img_size=crop_size),
    decode_head=dict(num_classes={{_base_.num_classes}}),
    test_cfg=dict(crop_size=crop_size, stride=(341, 341)),
)
