"""Naive SETR, DeiT-T/16, the baseline of SPFormer, from scratch, CamVid with 11 classes.

No row of a paper: superpixels beside patches with one budget. Data: see docs/real_photographs.md. Recipe: one process x 4
images, crops of 288x384 pixels, 800 iterations.
Command: mmvit train configs/spformer/setr-naive_deit-t16_1xb4-800_camvid-288x384.py --amp --cfg-options data_root=PATH
"""

_base_ = [
    '../_base_/models/setr-naive_deit.py',
    '../_base_/datasets/camvid_288x384.py',
    '../_base_/schedules/photographs_400.py',
]

max_iters = 800

model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone=dict(arch='tiny', img_size={{_base_.crop_size}}, init_cfg=None),
    decode_head=dict(in_channels=192, norm_cfg=dict(type='BN', requires_grad=True), num_classes={{_base_.num_classes}}),
    test_cfg=dict(mode='whole'),
)
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=1.0))
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(end=max_iters)
