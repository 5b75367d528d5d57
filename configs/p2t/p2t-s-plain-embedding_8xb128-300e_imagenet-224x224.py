"""Ablation of P2T-Small: patches that do not overlap.

Paper: arXiv 2106.12011. Data: ImageNet-1K, 224x224 pixels. Recipe: 8 GPUs x 128 images, 300 epochs, as P2T-Small. Not
trained here. This is also the last but one step of the paper's ladder.
Command: tools/dist_train.sh configs/p2t/p2t-s-plain-embedding_8xb128-300e_imagenet-224x224.py 8
"""

_base_ = [
    '../_base_/models/classifier_p2t.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/imagenet-p2t_300e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    backbone=dict(overlapped=False),
    head=dict(num_classes={{_base_.num_classes}}),
)
