"""Mask R-CNN with a pyramid made of one map, DINOv2-B, COCO.

Papers: arXiv 2203.16527 (ViTDet) and 2304.07193; neither has a row for it. Data: COCO 2017, 1333x800. Recipe: P2T's
(arXiv 2106.12011), 8 GPUs x 2 images, 12 epochs; weight decay, drop path and decay by depth are ViTDet's for ViT-B, and
attention is global in every block. The patches of 14 pixels are resized to 16 when the weights are loaded, so that the
levels have strides 4 to 64. Not trained here.
Command: tools/dist_train.sh configs/timm_vit/mask-rcnn_dinov2-b16_1x_coco.py 8
"""

_base_ = [
    '../_base_/models/mask-rcnn_p2t.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/detection_1x.py',
    '../_base_/detection_runtime.py',
]

num_classes = {{_base_.num_classes}}

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvit_ext.TimmViT',
        model='vit_base_patch14_dinov2.lvd142m',
        checkpoint='timm',
        patch_size=16,
        img_size=(800, 1344),
        drop_path_rate=0.1,
    ),
    neck=dict(_delete_=True, type='mmvit_ext.PlainPyramid', in_channels=768, out_channels=256, num_outs=5),
    roi_head=dict(bbox_head=dict(num_classes=num_classes), mask_head=dict(num_classes=num_classes)),
)
optim_wrapper = dict(
    constructor='mmvit_ext.LayerDecayConstructor', optimizer=dict(weight_decay=0.1), paramwise_cfg=dict(decay_rate=0.7)
)
