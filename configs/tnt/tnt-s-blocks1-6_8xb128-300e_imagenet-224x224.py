"""Ablation of TNT-S: an inner transformer in blocks 1 and 6 alone.

Paper: arXiv 2103.00112; published 81.1 % top-1 (TNT-S 81.5), 4.7 GFLOPs. Data: ImageNet-1K, 224x224 pixels. Recipe: 8
GPUs x 128 images, 300 epochs and 10 at the final rate, as TNT-S. The other blocks are plain ViT blocks. Not trained
here.
Command: tools/dist_train.sh configs/tnt/tnt-s-blocks1-6_8xb128-300e_imagenet-224x224.py 8
"""

_base_ = [
    '../_base_/models/classifier_tnt.py',
    '../_base_/datasets/imagenet-tnt_224.py',
    '../_base_/schedules/imagenet-tnt_300e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    backbone=dict(tnt_block_indices=(0, 5)),
    head=dict(num_classes={{_base_.num_classes}}),
)
