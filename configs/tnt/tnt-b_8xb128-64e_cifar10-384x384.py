"""TNT-B fine-tuned at 384x384, CIFAR-10.

Paper: arXiv 2103.00112, table 9; published 99.1 % top-1, 65.6 M parameters. Data: CIFAR-10, 384x384 pixels. Recipe: 8
GPUs x 128 images, 64 epochs, from the weights of ImageNet at 224x224; everything else as in that training, but for
its 10 last epochs. Not trained here.
Command: tools/dist_train.sh configs/tnt/tnt-b_8xb128-64e_cifar10-384x384.py 8
"""

_base_ = [
    '../_base_/models/classifier_tnt.py',
    '../_base_/datasets/cifar10-tnt_384.py',
    '../_base_/schedules/transfer-tnt_64e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    data_preprocessor=dict(num_classes={{_base_.num_classes}}, to_rgb=False),
    backbone=dict(
        arch='base',
        img_size=384,
        init_cfg=dict(type='Pretrained', checkpoint='pretrain/tnt_base.pth', prefix='backbone.'),
    ),
    head=dict(in_channels=640, num_classes={{_base_.num_classes}}),
)
