"""Mask R-CNN, P2T-Large, COCO.

Paper: arXiv 2106.12011; published 48.3 box AP, 70.2 box AP50, 43.5 mask AP, 67.3 mask AP50, 74.0 M parameters, 467
GFLOPs. Data: COCO 2017, 1333x800. Recipe: 8 GPUs x 2 images, 12 epochs from an ImageNet backbone with clipped
gradients. Not trained here.
Command: tools/dist_train.sh configs/p2t/mask-rcnn_p2t-l_fpn_1x_coco.py 8
"""

_base_ = [
    '../_base_/models/mask-rcnn_p2t.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/detection_1x.py',
    '../_base_/detection_runtime.py',
]

num_classes = {{_base_.num_classes}}

model = dict(
    backbone=dict(arch='large', drop_path_rate=0.3, init_cfg=dict(checkpoint='pretrain/p2t_large.pth')),
    neck=dict(in_channels=[64, 128, 320, 640]),
    roi_head=dict(bbox_head=dict(num_classes=num_classes), mask_head=dict(num_classes=num_classes)),
)
optim_wrapper = dict(clip_grad=dict(max_norm=10, norm_type=2))
