"""P2T-Tiny, ImageNet-1K.

Paper: arXiv 2106.12011; published 79.8 % top-1, 11.6 M parameters, 1.8 GFLOPs. Data: ImageNet-1K, 224x224 pixels.
Recipe: 8 GPUs x 128 images, 300 epochs. Not trained here.
Command: tools/dist_train.sh configs/p2t/p2t-ti_8xb128-300e_imagenet-224x224.py 8
"""

_base_ = [
    '../_base_/models/classifier_p2t.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/imagenet-p2t_300e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    backbone=dict(arch='tiny'),
    head=dict(in_channels=384, num_classes={{_base_.num_classes}}),
)
