"""Ablation of TNT-S: no position embeddings.

Paper: arXiv 2103.00112; published 80.5 % top-1 (TNT-S 81.5). Data: ImageNet-1K, 224x224 pixels. Recipe: 8 GPUs x 128
images, 300 epochs and 10 at the final rate, as TNT-S. Not trained here.
Command: tools/dist_train.sh configs/tnt/tnt-s-no-positions_8xb128-300e_imagenet-224x224.py 8
"""

_base_ = [
    '../_base_/models/classifier_tnt.py',
    '../_base_/datasets/imagenet-tnt_224.py',
    '../_base_/schedules/imagenet-tnt_300e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    backbone=dict(with_patch_pos=False, with_word_pos=False),
    head=dict(num_classes={{_base_.num_classes}}),
)
# There is no position embedding that a rule could name.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(_delete_=True, cls_token=dict(decay_mult=0.0))))
