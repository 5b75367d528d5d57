"""TNT-B, ImageNet-1K.

Paper: arXiv 2103.00112; published 82.9 % top-1, 65.6 M parameters, 14.1 GFLOPs. Data: ImageNet-1K, 224x224 pixels.
Recipe: 8 GPUs x 128 images, 300 epochs and 10 at the final rate. Not trained here.
Command: tools/dist_train.sh configs/tnt/tnt-b_8xb128-300e_imagenet-224x224.py 8
"""

_base_ = [
    '../_base_/models/classifier_tnt.py',
    '../_base_/datasets/imagenet-tnt_224.py',
    '../_base_/schedules/imagenet-tnt_300e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    backbone=dict(arch='base'),
    head=dict(in_channels=640, num_classes={{_base_.num_classes}}),
)
