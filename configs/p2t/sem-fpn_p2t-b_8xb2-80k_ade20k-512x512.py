"""Semantic FPN, P2T-Base, ADE20K.

Paper: arXiv 2106.12011; published 48.7 mIoU, 82.9 aAcc, 60.7 mAcc, 39.8 M parameters, 58.5 GFLOPs. Data: ADE20K,
512x512 crops. Recipe: 8 GPUs x 2 images, 80k iterations from an ImageNet backbone with clipped gradients. Not trained
here.
Command: tools/dist_train.sh configs/p2t/sem-fpn_p2t-b_8xb2-80k_ade20k-512x512.py 8
"""

_base_ = [
    '../_base_/models/sem-fpn_p2t.py',
    '../_base_/datasets/ade20k-multiple32_512x512.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/sem-fpn_80k.py',
]

model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone=dict(arch='base', drop_path_rate=0.3, init_cfg=dict(checkpoint='pretrain/p2t_base.pth')),
    decode_head=dict(num_classes={{_base_.num_classes}}),
)
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
