"""Mask R-CNN, P2T-Small, COCO.

Paper: arXiv 2106.12011; published 45.5 box AP, 67.7 box AP50, 41.4 mask AP, 64.6 mask AP50, 43.7 M parameters, 279
GFLOPs. Data: COCO 2017, 1333x800. Recipe: 8 GPUs x 2 images, 12 epochs from an ImageNet backbone. Not trained here.
Command: tools/dist_train.sh configs/p2t/mask-rcnn_p2t-s_fpn_1x_coco.py 8
"""

_base_ = [
    '../_base_/models/mask-rcnn_p2t.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/detection_1x.py',
    '../_base_/detection_runtime.py',
]

num_classes = {{_base_.num_classes}}

model = dict(
    roi_head=dict(bbox_head=dict(num_classes=num_classes), mask_head=dict(num_classes=num_classes)),
)
