"""SegViT Shrunk, EVA-02-L, COCO-Stuff-10K.

Papers: arXiv 2210.05844 and 2303.11331; neither has a row for it. Data: COCO-Stuff-10K, 512x512 crops. Recipe: 8 GPUs x
2 images, 80k iterations, poly power 2; learning rate, weight decay, drop path and decay by depth are those of EVA-02's
authors for UPerNet on ADE20K. Not trained here.
Command: tools/dist_train.sh configs/segvit/segvit-shrunk_eva02-l16_8xb2-80k_coco-stuff10k-512x512.py 8
"""

_base_ = [
    '../_base_/models/segvit_eva02-l16.py',
    '../_base_/datasets/coco-stuff10k_512x512.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/segvit-layer-decay_80k.py',
]

crop_size = {{_base_.crop_size}}

model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(img_size=crop_size, shrink_index=8, out_indices=(7, 23)),
    decode_head=dict(
        type='mmvit_ext.ShrunkATMHead',
        in_channels=[1024, 1024],
        in_index=[0, 1],
        img_size=crop_size,
        query_start='tokens',
        num_classes={{_base_.num_classes}},
    ),
    test_cfg=dict(crop_size=crop_size, stride=(341, 341)),
)
optim_wrapper = dict(optimizer=dict(lr=4e-5), paramwise_cfg=dict(decay_rate=0.9))
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(power=2.0)
