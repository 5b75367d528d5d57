"""Ablation of TNT-S: squeeze and excitation in the outer layers.

Paper: arXiv 2103.00112; published 81.7 % top-1 (TNT-S 81.5), 24.7 M parameters, 5.2 GFLOPs. Data: ImageNet-1K, 224x224
pixels. Recipe: 8 GPUs x 128 images, 300 epochs and 10 at the final rate, as TNT-S. It is that of the authors' code:
added behind the outer MLPs, with a tanh. Not trained here.
Command: tools/dist_train.sh configs/tnt/tnt-s-se_8xb128-300e_imagenet-224x224.py 8
"""

_base_ = [
    '../_base_/models/classifier_tnt.py',
    '../_base_/datasets/imagenet-tnt_224.py',
    '../_base_/schedules/imagenet-tnt_300e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    backbone=dict(with_se=True),
    head=dict(num_classes={{_base_.num_classes}}),
)
