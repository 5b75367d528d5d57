"""NesT-B for CIFAR, CIFAR-100.

Paper: arXiv 2105.12723; its figure is not in our source. Data: CIFAR-100, 32x32 pixels. Recipe: one process x 256
images, 300 epochs; the batch and random crops from 4 pixels of padding are not in our source, drop path is that of the
ImageNet variant. Not trained here.
Command: python tools/train.py configs/nest/nest-cifar-b_1xb256-300e_cifar100-32x32.py
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
    backbone=dict(arch='cifar-base', drop_path_rate=0.5),
    head=dict(in_channels=768, num_classes=num_classes),
)
