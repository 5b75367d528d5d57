"""NesT-B for CIFAR, CIFAR-10.

Paper: arXiv 2105.12723; its figure is not in our sources. Data: CIFAR-10, 32x32 pixels. Recipe: 2 GPUs x 32 images, 300
epochs, drop path 0.1 in all sizes, as in the authors' configs. Not trained here.
Command: tools/dist_train.sh configs/nest/nest-cifar-b_2xb32-300e_cifar10-32x32.py 2
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
    backbone=dict(arch='cifar-base', drop_path_rate=0.1),
    head=dict(in_channels=768, num_classes=num_classes),
)
train_dataloader = dict(batch_size=32)
optim_wrapper = dict(optimizer=dict(lr=2.5e-4 * 64 / 256))
auto_scale_lr = dict(base_batch_size=64)
