"""Mask R-CNN, P2T-Base, COCO.

Paper: arXiv 2106.12011; published 47.2 box AP, 69.3 box AP50, 42.7 mask AP, 66.1 mask AP50, 55.7 M parameters, 363
GFLOPs. Data: COCO 2017, 1333x800. Recipe: 8 GPUs x 2 images, 12 epochs from an ImageNet backbone with clipped
gradients. Not trained here.
Command: tools/dist_train.sh configs/p2t/mask-rcnn_p2t-b_fpn_1x_coco.py 8
"""

_base_ = [
    '../_base_/models/mask-rcnn_p2t.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/detection_1x.py',
    '../_base_/detection_runtime.py',
]

num_classes = {{_base_.num_classes}}

model = dict(
    backbone=dict(arch='base', drop_path_rate=0.3, init_cfg=dict(checkpoint='pretrain/p2t_base.pth')),
    roi_head=dict(bbox_head=dict(num_classes=num_classes), mask_head=dict(num_classes=num_classes)),
)
optim_wrapper = dict(clip_grad=dict(max_norm=10, norm_type=2))
