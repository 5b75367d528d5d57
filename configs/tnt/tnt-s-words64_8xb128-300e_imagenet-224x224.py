"""Ablation of TNT-S: 64 words of 2x2 pixels in a patch instead of 16 of 4x4.

Paper: arXiv 2103.00112; published 81.0 % top-1 (TNT-S 81.5), 23.8 M parameters, 5.1 GFLOPs. Data: ImageNet-1K, 224x224
pixels. Recipe: 8 GPUs x 128 images, 300 epochs and 10 at the final rate, as TNT-S. In the paper the width of the words
is 6 then; how many heads is not published, and 3 are the most up to 4 that divide it. Not trained here.
Command: tools/dist_train.sh configs/tnt/tnt-s-words64_8xb128-300e_imagenet-224x224.py 8
"""

_base_ = [
    '../_base_/models/classifier_tnt.py',
    '../_base_/datasets/imagenet-tnt_224.py',
    '../_base_/schedules/imagenet-tnt_300e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    backbone=dict(inner_stride=2, embed_dims_inner=6, num_heads_inner=3),
    head=dict(num_classes={{_base_.num_classes}}),
)
