"""Semantic FPN, P2T-Small, ADE20K.

Paper: arXiv 2106.12011; published 46.7 mIoU, 82.0 aAcc, 58.4 mAcc, 27.8 M parameters, 42.7 GFLOPs. Data: ADE20K,
512x512 crops. Recipe: 8 GPUs x 2 images, 80k iterations from an ImageNet backbone. Not trained here.
Command: tools/dist_train.sh configs/p2t/sem-fpn_p2t-s_8xb2-80k_ade20k-512x512.py 8
"""

_base_ = [
    '../_base_/models/sem-fpn_p2t.py',
    '../_base_/datasets/ade20k-multiple32_512x512.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/sem-fpn_80k.py',
]

model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    decode_head=dict(num_classes={{_base_.num_classes}}),
)
