"""RetinaNet, P2T-Tiny, COCO.

Paper: arXiv 2106.12011; published 41.3 AP, 62.0 AP50, 44.1 AP75, 21.1 M parameters, 206 GFLOPs. Data: COCO 2017,
1333x800. Recipe: 8 GPUs x 2 images, 12 epochs from an ImageNet backbone. Not trained here.
Command: tools/dist_train.sh configs/p2t/retinanet_p2t-ti_fpn_1x_coco.py 8
"""

_base_ = [
    '../_base_/models/retinanet_p2t.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/detection_1x.py',
    '../_base_/detection_runtime.py',
]

model = dict(
    backbone=dict(arch='tiny', init_cfg=dict(checkpoint='pretrain/p2t_tiny.pth')),
    neck=dict(in_channels=[48, 96, 240, 384]),
    bbox_head=dict(num_classes={{_base_.num_classes}}),
)
