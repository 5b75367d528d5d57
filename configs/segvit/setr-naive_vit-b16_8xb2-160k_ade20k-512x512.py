"""Ablation: SETR (naive upsampling) with cross entropy, the baseline of SegViT. ViT-B/16, ADE20K.

Paper: arXiv 2210.05844; published 46.5 mIoU, 107.3 GFLOPs. Data: ADE20K, 512x512 crops. Recipe: 8 GPUs x 2 images, 160k
iterations. Not trained here. The head is mmseg's naive SETR head on the last layer, without auxiliary heads. The
sliding window's stride is that of the authors' base file for ViT-B, by analogy.
Command: tools/dist_train.sh configs/segvit/setr-naive_vit-b16_8xb2-160k_ade20k-512x512.py 8
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
    backbone=dict(img_size=crop_size, out_indices=11),
    decode_head=dict(
        _delete_=True,
        type='mmvit_ext.SETRUPHead',
        in_channels=768,
        channels=256,
        in_index=0,
        num_classes={{_base_.num_classes}},
        num_convs=1,
        up_scale=4,
        kernel_size=1,
        dropout_ratio=0.0,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    test_cfg=dict(crop_size=crop_size, stride=(341, 341)),
)
tta_model = dict(type='SegTTAModel')
