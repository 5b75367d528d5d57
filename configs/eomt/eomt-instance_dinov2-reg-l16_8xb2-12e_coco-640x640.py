"""EoMT-L, COCO instances, 640x640.

Source: arXiv 2503.19108 and the authors' model zoo (DINOv2), mask AP 45.2. Recipe: 8 GPUs x 2 images, otherwise that of
the panoptic row, with 80 classes of objects. Not trained here.
Command: tools/dist_train.sh configs/eomt/eomt-instance_dinov2-reg-l16_8xb2-12e_coco-640x640.py 8 --amp
"""

_base_ = [
    '../_base_/models/eomt-panoptic_dinov2-reg-l16.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/eomt.py',
    '../_base_/detection_runtime.py',
]

max_iters = 88692
crop_size = (640, 640)

model = dict(
    data_preprocessor=dict(pad_seg=False),
    panoptic_head=dict(num_stuff_classes=0),
    panoptic_fusion_head=dict(num_stuff_classes=0),
    test_cfg=dict(panoptic_on=False, instance_on=True),
)
train_pipeline = _base_.train_pipeline
train_pipeline[2:3] = [
    dict(type='RandomResize', scale=crop_size, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, recompute_bbox=True, allow_negative_crop=True),
]
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=crop_size)
train_dataloader = dict(
    sampler=dict(type='InfiniteSampler', shuffle=True), batch_sampler=None, dataset=dict(pipeline=train_pipeline)
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 12)
param_scheduler = dict(end=max_iters)
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=max_iters // 12, save_best='coco/segm_mAP'),
)
log_processor = dict(by_epoch=False)
