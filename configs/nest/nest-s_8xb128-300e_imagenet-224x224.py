"""NesT-S, ImageNet-1K.

Paper: arXiv 2105.12723; published 83.3 % top-1, 38.4 M parameters, 10.4 GFLOPs. Data: ImageNet-1K, 224x224 pixels.
Recipe: 8 GPUs x 128 images, 300 epochs. Not trained here.
Command: tools/dist_train.sh configs/nest/nest-s_8xb128-300e_imagenet-224x224.py 8
"""

_base_ = [
    '../_base_/models/classifier_nest.py',
    '../_base_/datasets/imagenet-nest_224.py',
    '../_base_/schedules/imagenet-nest_300e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    backbone=dict(arch='small', drop_path_rate=0.3),
    head=dict(num_classes={{_base_.num_classes}}),
)
