"""RetinaNet, TNT-S, COCO.

Paper: arXiv 2103.00112; the paper has no row for it. Data: COCO 2017, 1333x800. Recipe: P2T's (arXiv 2106.12011), 8
GPUs x 2 images, 12 epochs from ImageNet weights of the classification config here or the converted ones of the authors.
Not trained here.
Command: tools/dist_train.sh configs/tnt/retinanet_tnt-s_fpn_1x_coco.py 8
"""

_base_ = [
    '../_base_/models/retinanet_tnt.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/detection_1x.py',
    '../_base_/detection_runtime.py',
]

model = dict(bbox_head=dict(num_classes={{_base_.num_classes}}))
