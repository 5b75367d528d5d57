"""SPFormer-T/16, ImageNet-1K.

Paper: arXiv 2401.02931; published 73.6 % top-1. Data: ImageNet-1K, 224x224 pixels. Recipe: DeiT's, 8 GPUs x 128 images,
300 epochs. Not trained here.
Command: tools/dist_train.sh configs/spformer/spformer-t16_8xb128-300e_imagenet-224x224.py 8
"""

_base_ = [
    '../_base_/models/classifier_spformer.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/imagenet-deit_300e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    backbone=dict(arch='tiny'),
    head=dict(in_channels=192, num_classes={{_base_.num_classes}}),
)
