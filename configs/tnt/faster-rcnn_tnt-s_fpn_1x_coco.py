"""Faster R-CNN, TNT-S, COCO.

Paper: arXiv 2103.00112; published 41.5 AP, 64.1 AP50, 44.5 AP75, 25.7 APs, 44.6 APm, 55.4 APl, 48.1 M parameters. Data:
COCO 2017, 1333x800. Recipe: 8 GPUs x 2 images, 12 epochs from ImageNet weights of the classification config here or the
converted ones of the authors; beyond the 12 epochs it is not published, so that it is P2T's (arXiv 2106.12011). The
form of the pyramid is what the published parameters ask for. Not trained here.
Command: tools/dist_train.sh configs/tnt/faster-rcnn_tnt-s_fpn_1x_coco.py 8
"""

_base_ = [
    '../_base_/models/mask-rcnn_tnt.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/detection_1x.py',
    '../_base_/detection_runtime.py',
]

model = dict(
    type='FasterRCNN',
    data_preprocessor=dict(pad_mask=False),
    neck=[
        dict(type='mmvit_ext.PlainPyramid', in_channels=[384, 384, 384, 384], form='tnt'),
        dict(type='FPN', in_channels=[384, 384, 384, 384], out_channels=256, num_outs=5),
    ],
    roi_head=dict(
        bbox_head=dict(num_classes={{_base_.num_classes}}),
        mask_roi_extractor=None,
        mask_head=None,
    ),
)
