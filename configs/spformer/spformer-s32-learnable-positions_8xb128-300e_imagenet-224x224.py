"""Ablation of SPFormer-S/32: learned position embeddings in SCA.

Paper: arXiv 2401.02931; published slightly less than S/32, without a figure. Data: ImageNet-1K, 224x224 pixels. Recipe:
DeiT's, 8 GPUs x 128 images, 300 epochs. Not trained here.
Command: tools/dist_train.sh configs/spformer/spformer-s32-learnable-positions_8xb128-300e_imagenet-224x224.py 8
"""

_base_ = [
    '../_base_/models/classifier_spformer.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/imagenet-deit_300e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    backbone=dict(pixel_stride=8, positions='learnable'),
    head=dict(num_classes={{_base_.num_classes}}),
)
