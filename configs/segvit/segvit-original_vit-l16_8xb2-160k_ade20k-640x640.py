"""SegViT, ViT-L/16 with the weights of the original ViT, ADE20K.

Paper: arXiv 2210.05844, section 4.2; published 51.7 mIoU single scale. Data: ADE20K, 640x640 crops, which the text does
not say of this row. Recipe: 8 GPUs x 2 images, 160k iterations; from the original ViT's weights in place of AugReg's.
Not trained here.
Command: tools/dist_train.sh configs/segvit/segvit-original_vit-l16_8xb2-160k_ade20k-640x640.py 8
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
    backbone=dict(img_size=crop_size, init_cfg=dict(checkpoint='pretrain/vit_large_p16_384_original.pth')),
    decode_head=dict(num_classes={{_base_.num_classes}}),
    test_cfg=dict(crop_size=crop_size, stride=(608, 608)),
)
