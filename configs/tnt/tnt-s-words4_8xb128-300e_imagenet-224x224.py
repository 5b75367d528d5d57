"""Ablation of TNT-S: 4 words of 8x8 pixels in a patch instead of 16 of 4x4.

Paper: arXiv 2103.00112; published 81.1 % top-1 (TNT-S 81.5), 25.1 M parameters, 6.0 GFLOPs. Data: ImageNet-1K, 224x224
pixels. Recipe: 8 GPUs x 128 images, 300 epochs and 10 at the final rate, as TNT-S. The width of the words is 96 then.
Not trained here.
Command: tools/dist_train.sh configs/tnt/tnt-s-words4_8xb128-300e_imagenet-224x224.py 8
"""

_base_ = [
    '../_base_/models/classifier_tnt.py',
    '../_base_/datasets/imagenet-tnt_224.py',
    '../_base_/schedules/imagenet-tnt_300e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    backbone=dict(inner_stride=8, embed_dims_inner=96),
    head=dict(num_classes={{_base_.num_classes}}),
)
