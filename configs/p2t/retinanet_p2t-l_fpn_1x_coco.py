"""RetinaNet, P2T-Large, COCO.

Paper: arXiv 2106.12011; published 47.2 AP, 68.4 AP50, 50.9 AP75, 64.4 M parameters, 449 GFLOPs. Data: COCO 2017,
1333x800. Recipe: 8 GPUs x 2 images, 12 epochs from an ImageNet backbone. Not trained here.
Command: tools/dist_train.sh configs/p2t/retinanet_p2t-l_fpn_1x_coco.py 8
"""

_base_ = [
    '../_base_/models/retinanet_p2t.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/detection_1x.py',
    '../_base_/detection_runtime.py',
]

model = dict(
    backbone=dict(arch='large', drop_path_rate=0.3, init_cfg=dict(checkpoint='pretrain/p2t_large.pth')),
    neck=dict(in_channels=[64, 128, 320, 640]),
    bbox_head=dict(num_classes={{_base_.num_classes}}),
)
