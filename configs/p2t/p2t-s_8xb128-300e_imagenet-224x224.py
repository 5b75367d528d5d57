"""P2T-Small, ImageNet-1K.

Paper: arXiv 2106.12011; published 82.4 % top-1, 24.1 M parameters, 3.7 GFLOPs. Data: ImageNet-1K, 224x224 pixels.
Recipe: 8 GPUs x 128 images, 300 epochs. Not trained here.
Command: tools/dist_train.sh configs/p2t/p2t-s_8xb128-300e_imagenet-224x224.py 8
"""

_base_ = [
    '../_base_/models/classifier_p2t.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/imagenet-p2t_300e.py',
    '../_base_/classification_runtime.py',
]

model = dict(head=dict(num_classes={{_base_.num_classes}}))
