"""EoMT-L, Cityscapes, 1024x1024.

Source: arXiv 2503.19108 and the authors' model zoo (DINOv2), mIoU 84.2. Recipe: that of ADE20K, 8 GPUs x 2 images; its
number of iterations is not in our sources, 20000 are 107 times through the images. Not trained here.
Command: tools/dist_train.sh configs/eomt/eomt_dinov2-reg-l16_8xb2-20k_cityscapes-1024x1024.py 8 --amp
"""

_base_ = [
    '../_base_/models/eomt_dinov2-reg-l16.py',
    '../_base_/datasets/cityscapes_1024x1024.py',
    '../_base_/schedules/eomt.py',
    '../_base_/default_runtime.py',
]

crop_size = {{_base_.crop_size}}
max_iters = 20000

model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(img_size=crop_size),
    decode_head=dict(num_classes={{_base_.num_classes}}),
    test_cfg=dict(crop_size=crop_size, stride=crop_size),
)
train_cfg = dict(max_iters=max_iters)
param_scheduler = dict(end=max_iters)
