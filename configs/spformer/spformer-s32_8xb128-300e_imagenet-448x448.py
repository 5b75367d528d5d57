"""SPFormer-S/32 on images twice as large, ImageNet-1K.

Paper: arXiv 2401.02931; published 0.3 % top-1 more than S/16, which has as many superpixels. Data: ImageNet-1K, 448x448
pixels. Recipe: DeiT's, 8 GPUs x 128 images, 300 epochs. Not trained here.
Command: tools/dist_train.sh configs/spformer/spformer-s32_8xb128-300e_imagenet-448x448.py 8
"""

_base_ = [
    '../_base_/models/classifier_spformer.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/imagenet-deit_300e.py',
    '../_base_/classification_runtime.py',
]

img_size = 448
# The test image's shorter side before the middle is cut out: 448 / 0.875.
test_size = 512

model = dict(
    backbone=dict(img_size=img_size, pixel_stride=8),
    head=dict(num_classes={{_base_.num_classes}}),
)
train_pipeline = _base_.train_pipeline
train_pipeline[1].update(scale=img_size)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=test_size)
test_pipeline[2].update(crop_size=img_size)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
