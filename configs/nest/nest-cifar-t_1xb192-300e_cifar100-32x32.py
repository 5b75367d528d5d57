"""NesT-T for CIFAR, CIFAR-100.

Paper: arXiv 2105.12723; 78.69 % top-1 says another reimplementation's README, second-hand; the paper's table could not
be read. Data: CIFAR-100, 32x32 pixels. Recipe: one process x 192 images, 300 epochs, drop path 0.1 in all sizes, as in
the authors' configs. Not trained here.
Command: python tools/train.py configs/nest/nest-cifar-t_1xb192-300e_cifar100-32x32.py
"""

_base_ = [
    '../_base_/models/classifier_nest.py',
    '../_base_/datasets/cifar100_32.py',
    '../_base_/schedules/cifar-nest_300e.py',
    '../_base_/classification_runtime.py',
]

num_classes = {{_base_.num_classes}}

model = dict(
    data_preprocessor=dict(num_classes=num_classes, mean={{_base_.mean}}, std={{_base_.std}}, to_rgb=False),
    backbone=dict(arch='cifar-tiny', drop_path_rate=0.1),
    head=dict(in_channels=192, num_classes=num_classes),
)
