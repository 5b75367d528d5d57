"""SegViT Shrunk, the background being a class. ViT-L/16, PASCAL-Context (60 classes).

Paper: arXiv 2210.05844; published 57.4 mIoU multi scale. Data: PASCAL-Context, 60 classes, 480x480 crops. Recipe: 8
GPUs x 2 images, 80k iterations. Not trained here.
Command: tools/dist_train.sh configs/segvit/segvit-shrunk_vit-l16_8xb2-80k_pascal-context-480x480.py 8
"""

_base_ = [
    '../_base_/models/segvit-shrunk_vit-l16.py',
    '../_base_/datasets/pascal-context_480x480.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/segvit_80k.py',
]

crop_size = {{_base_.crop_size}}

model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(img_size=crop_size),
    decode_head=dict(num_classes={{_base_.num_classes}}, img_size=crop_size),
    test_cfg=dict(crop_size=crop_size, stride=(320, 320)),
)

optim_wrapper = dict(optimizer=dict(weight_decay=0.03))
