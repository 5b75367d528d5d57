"""Mask R-CNN, P2T-Tiny, COCO.

Paper: arXiv 2106.12011; published 43.3 box AP, 65.7 box AP50, 39.6 mask AP, 62.5 mask AP50, 31.3 M parameters, 225
GFLOPs. Data: COCO 2017, 1333x800. Recipe: 8 GPUs x 2 images, 12 epochs from an ImageNet backbone. Not trained here.
Command: tools/dist_train.sh configs/p2t/mask-rcnn_p2t-ti_fpn_1x_coco.py 8
"""

_base_ = [
    '../_base_/models/mask-rcnn_p2t.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/detection_1x.py',
    '../_base_/detection_runtime.py',
]

num_classes = {{_base_.num_classes}}

model = dict(
    backbone=dict(arch='tiny', init_cfg=dict(checkpoint='pretrain/p2t_tiny.pth')),
    neck=dict(in_channels=[48, 96, 240, 384]),
    roi_head=dict(bbox_head=dict(num_classes=num_classes), mask_head=dict(num_classes=num_classes)),
)
