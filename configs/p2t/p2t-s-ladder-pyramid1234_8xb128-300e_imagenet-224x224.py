"""Ablation of P2T-Small, the paper's ladder: pyramid pooling in all stages.

Paper: arXiv 2106.12011. Data: ImageNet-1K, 224x224 pixels. Recipe: 8 GPUs x 128 images, 300 epochs, as P2T-Small. Not
trained here. A plain MLP and patches that do not overlap, no relative position encoding.
Command: tools/dist_train.sh configs/p2t/p2t-s-ladder-pyramid1234_8xb128-300e_imagenet-224x224.py 8
"""

_base_ = [
    '../_base_/models/classifier_p2t.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/imagenet-p2t_300e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    backbone=dict(with_rpe=False, ffn_type='mlp', overlapped=False),
    head=dict(num_classes={{_base_.num_classes}}),
)
