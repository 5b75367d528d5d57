"""Ablation of P2T-Small: one pooling ratio per stage instead of four.

Paper: arXiv 2106.12011. Data: ImageNet-1K, 224x224 pixels. Recipe: 8 GPUs x 128 images, 300 epochs, as P2T-Small. Not
trained here. The ratios are those that shorten the sequence by nearly as much as the four do: 64, 16, 4 and 1 times,
against 66, 17, 4.1 and 0.7 times.
Command: tools/dist_train.sh configs/p2t/p2t-s-single-pooling_8xb128-300e_imagenet-224x224.py 8
"""

_base_ = [
    '../_base_/models/classifier_p2t.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/imagenet-p2t_300e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    backbone=dict(pool_ratios=((8,), (4,), (2,), (1,))),
    head=dict(num_classes={{_base_.num_classes}}),
)
