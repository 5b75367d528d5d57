"""SegViT's decoder on NesT-T, ADE20K.

Papers: arXiv 2105.12723 and 2210.05844; neither has a row for it. The maps of strides 8, 16 and 32 are decoded at width
512, as with Swin-T. Data: ADE20K, 512x512 crops. Recipe: SegViT's, 8 GPUs x 2 images, 160k iterations from ImageNet
weights of the classification config here or the converted ones of the authors. Not trained here. The sliding window's
stride is that of SegViT's ViT-B at this crop.
Command: tools/dist_train.sh configs/nest/segvit_nest-t_8xb2-160k_ade20k-512x512.py 8
"""

_base_ = [
    '../_base_/models/segvit_vit-b16.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/segvit_160k.py',
]

crop_size = {{_base_.crop_size}}

model = dict(
    data_preprocessor=dict(size=crop_size, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(
        _delete_=True,
        type='mmvit_ext.NesT',
        arch='tiny',
        out_indices=(1, 2, 3),
        extra_dims=768,
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='pretrain/nest_tiny.pth', prefix='backbone.'),
    ),
    decode_head=dict(in_channels=[192, 384, 768], channels=512, num_heads=16, num_classes={{_base_.num_classes}}),
    test_cfg=dict(crop_size=crop_size, stride=(341, 341)),
)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys=dict(_delete_=True, norm=dict(decay_mult=0.0), head=dict(lr_mult=10.0)))
)
