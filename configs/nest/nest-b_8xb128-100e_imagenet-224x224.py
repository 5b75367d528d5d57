"""NesT-B trained for 100 epochs, ImageNet-1K.

Paper: arXiv 2105.12723; published 82.3 % top-1 in the abstract of the first version. Data: ImageNet-1K, 224x224 pixels.
Recipe: 8 GPUs x 128 images, 100 epochs; whether anything but the number of epochs differs from NesT-B's 300 is not
published. Not trained here.
Command: tools/dist_train.sh configs/nest/nest-b_8xb128-100e_imagenet-224x224.py 8
"""

_base_ = [
    '../_base_/models/classifier_nest.py',
    '../_base_/datasets/imagenet-nest_224.py',
    '../_base_/schedules/imagenet-nest_100e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    backbone=dict(arch='base', drop_path_rate=0.5),
    head=dict(in_channels=512, num_classes={{_base_.num_classes}}),
)
