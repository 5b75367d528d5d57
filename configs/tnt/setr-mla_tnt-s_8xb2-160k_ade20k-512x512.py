"""SETR-MLA (blocks 3, 6, 9 and 12 aggregated), TNT-S, ADE20K.

Paper: arXiv 2103.00112; the paper has no row for it. Data: ADE20K, 512x512 crops. Recipe: 8 GPUs x 2 images, 160k
iterations from ImageNet weights of the classification config here or the converted ones of the authors; optimiser,
schedule and the window's step (two thirds of the crop) are those of mmseg's MLA SETR on ADE20K; no auxiliary heads. Not
trained here.
Command: tools/dist_train.sh configs/tnt/setr-mla_tnt-s_8xb2-160k_ade20k-512x512.py 8
"""

_base_ = [
    '../_base_/models/setr-naive_tnt.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/setr-decoder_160k.py',
]

crop_size = {{_base_.crop_size}}

norm_cfg = dict(type='SyncBN', requires_grad=True)

model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(img_size=crop_size, out_indices=(2, 5, 8, 11)),
    neck=dict(
        type='MLANeck',
        in_channels=[384, 384, 384, 384],
        out_channels=256,
        norm_cfg=norm_cfg,
        act_cfg=dict(type='ReLU'),
    ),
    decode_head=dict(
        _delete_=True,
        type='SETRMLAHead',
        in_channels=[256, 256, 256, 256],
        channels=512,
        in_index=[0, 1, 2, 3],
        mla_channels=128,
        num_classes={{_base_.num_classes}},
        dropout_ratio=0.0,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    test_cfg=dict(crop_size=crop_size, stride=(341, 341)),
)
