"""NesT-T for CIFAR, CIFAR-10.

Paper: arXiv 2105.12723; published 96 % top-1 and 6 M parameters, both rounded; 96.04 % says another reimplementation.
Data: CIFAR-10, 32x32 pixels. Recipe: one process x 192 images, 300 epochs, drop path 0.1 in all sizes, as in the
authors' configs. Not trained here.
Command: python tools/train.py configs/nest/nest-cifar-t_1xb192-300e_cifar10-32x32.py
"""

_base_ = [
    '../_base_/models/classifier_nest.py',
    '../_base_/datasets/cifar10_32.py',
    '../_base_/schedules/cifar-nest_300e.py',
    '../_base_/classification_runtime.py',
]

num_classes = {{_base_.num_classes}}

model = dict(
    data_preprocessor=dict(num_classes=num_classes, mean={{_base_.mean}}, std={{_base_.std}}, to_rgb=False),
    backbone=dict(arch='cifar-tiny', drop_path_rate=0.1),
    head=dict(in_channels=192, num_classes=num_classes),
)
