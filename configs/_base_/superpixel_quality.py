"""Measuring superpixels: SPFormer-S/16 without a head, and the three kinds of regions of the table."""

_base_ = './environment.py'

default_scope = 'mmseg'

model = dict(
    type='mmvit_ext.SuperpixelExtractor',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    ),
    # Block 2 is the first one behind the last superpixel cross attention: the others need not run.
    backbone=dict(type='mmvit_ext.SPFormer', arch='small', norm_cfg=dict(type='LN', eps=1e-6), out_indices=2),
)
test_cfg = dict(type='TestLoop')
test_evaluator = [
    dict(type='mmvit_ext.SuperpixelQuality'),
    dict(type='mmvit_ext.SuperpixelQuality', regions='patches', patch_size=16),
    dict(type='mmvit_ext.SuperpixelQuality', regions='slic', patch_size=16),
]
default_hooks = dict(logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False))
log_processor = dict(by_epoch=False)
