"""EoMT-L, COCO panoptic, 640x640.

Source: arXiv 2503.19108 and the authors' model zoo (DINOv2), PQ 56.0. Recipe: 8 GPUs x 2 images, 12 epochs, 200
queries, masks annealed in four of six parts of the training, images scaled by 0.1 to 2 in training and padded to a
square in tests. Not trained here.
Command: tools/dist_train.sh configs/eomt/eomt-panoptic_dinov2-reg-l16_8xb2-12e_coco-640x640.py 8 --amp
"""

_base_ = [
    '../_base_/models/eomt-panoptic_dinov2-reg-l16.py',
    '../_base_/datasets/coco_panoptic.py',
    '../_base_/schedules/eomt.py',
    '../_base_/detection_runtime.py',
]

max_iters = 88692

train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 12)
param_scheduler = dict(end=max_iters)
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=max_iters // 12, save_best='coco_panoptic/PQ', rule='greater'),
)
log_processor = dict(by_epoch=False)
