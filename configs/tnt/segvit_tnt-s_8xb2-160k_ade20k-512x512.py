"""SegViT's decoder on TNT-S, ADE20K.

Papers: arXiv 2103.00112 and 2210.05844; neither has a row for it. Blocks 6, 8 and 12 are decoded, as with ViT-B. Data:
ADE20K, 512x512 crops. Recipe: SegViT's, 8 GPUs x 2 images, 160k iterations from ImageNet weights of the classification
config here or the converted ones of the authors. Not trained here. The sliding window's stride is that of SegViT's
ViT-B at this crop.
Command: tools/dist_train.sh configs/tnt/segvit_tnt-s_8xb2-160k_ade20k-512x512.py 8
"""

_base_ = [
    '../_base_/models/segvit_vit-b16.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/segvit_160k.py',
]

crop_size = {{_base_.crop_size}}

model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(
        _delete_=True,
        type='mmvit_ext.TNT',
        arch='small',
        img_size=crop_size,
        out_indices=(5, 7, 11),
        with_cls_token=False,
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='pretrain/tnt_small.pth', prefix='backbone.'),
    ),
    decode_head=dict(in_channels=[384, 384, 384], channels=192, num_heads=6, num_classes={{_base_.num_classes}}),
    test_cfg=dict(crop_size=crop_size, stride=(341, 341)),
)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys=dict(_delete_=True, norm=dict(decay_mult=0.0), head=dict(lr_mult=10.0)))
)
