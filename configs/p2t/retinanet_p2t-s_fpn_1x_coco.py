"""RetinaNet, P2T-Small, COCO.

Paper: arXiv 2106.12011; published 44.4 AP, 65.3 AP50, 47.6 AP75, 33.8 M parameters, 260 GFLOPs. Data: COCO 2017,
1333x800. Recipe: 8 GPUs x 2 images, 12 epochs from an ImageNet backbone. Not trained here.
Command: tools/dist_train.sh configs/p2t/retinanet_p2t-s_fpn_1x_coco.py 8
"""

_base_ = [
    '../_base_/models/retinanet_p2t.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/detection_1x.py',
    '../_base_/detection_runtime.py',
]

model = dict(
    bbox_head=dict(num_classes={{_base_.num_classes}}),
)
