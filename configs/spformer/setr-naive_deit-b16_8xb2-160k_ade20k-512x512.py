"""Naive SETR, DeiT-B/16, ADE20K, from ImageNet weights: the baseline of SPFormer.

Paper: arXiv 2401.02931; its absolute figure is not in our source. Data: ADE20K, 512x512 crops. Recipe: 8 GPUs x 2
images, 160k iterations. The paper leaves the schedule to a supplement that we do not have: optimiser, schedule and the
window's step (two thirds of the crop) are those of mmseg's naive SETR on ADE20K, drop path is that of its Segmenter; no
auxiliary heads. Weights: DeiT converted with `vit`. Not trained here.
Command: tools/dist_train.sh configs/spformer/setr-naive_deit-b16_8xb2-160k_ade20k-512x512.py 8
"""

_base_ = [
    '../_base_/models/setr-naive_deit.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/setr_160k.py',
]

crop_size = {{_base_.crop_size}}

model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(arch='base', img_size=crop_size, init_cfg=dict(checkpoint='pretrain/deit_base.pth')),
    decode_head=dict(in_channels=768, num_classes={{_base_.num_classes}}),
    test_cfg=dict(crop_size=crop_size, stride=(341, 341)),
)
