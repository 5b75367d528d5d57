"""SegViT Shrunk. ViT-L/16, COCO-Stuff-10K.

Paper: arXiv 2210.05844; published 49.1 mIoU single scale, 49.4 multi scale, 224.8 GFLOPs. Data: COCO-Stuff-10K,
512x512 crops. Recipe: 8 GPUs x 2 images, 80k iterations. Not trained here.
Command: tools/dist_train.sh configs/segvit/segvit-shrunk_vit-l16_8xb2-80k_coco-stuff10k-512x512.py 8
"""

_base_ = [
    '../_base_/models/segvit-shrunk_vit-l16.py',
    '../_base_/datasets/coco-stuff10k_512x512.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/segvit_80k.py',
]

crop_size = {{_base_.crop_size}}

model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(img_size=crop_size),
    decode_head=dict(num_classes={{_base_.num_classes}}, img_size=crop_size),
    test_cfg=dict(crop_size=crop_size, stride=(341, 341)),
)

optim_wrapper = dict(optimizer=dict(weight_decay=0.02))
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(power=2.0)
