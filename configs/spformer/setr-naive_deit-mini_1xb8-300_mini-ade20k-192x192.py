"""Naive SETR with a small DeiT, from scratch, on the mini dataset in ADE20K's layout.

No row of a paper. Data: tools/make_mini_dataset.py data/mini. Recipe: one process x 8 images of 192x192 pixels, 300
iterations. The baseline of setr-superpixel_spformer-mini: as many blocks of the same width, the same budget.
Command: python tools/train.py configs/spformer/setr-naive_deit-mini_1xb8-300_mini-ade20k-192x192.py
"""

_base_ = [
    '../_base_/models/setr-naive_deit.py',
    '../_base_/mini/ade20k_192x192.py',
    '../_base_/default_runtime.py',
    '../_base_/mini/schedule_300.py',
]

model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone=dict(arch='tiny', num_layers=6, img_size={{_base_.crop_size}}, drop_path_rate=0.0, init_cfg=None),
    decode_head=dict(
        in_channels=192,
        norm_cfg=dict(type='BN', requires_grad=True),  # the synchronised one needs a GPU
        num_classes={{_base_.num_classes}},
    ),
    test_cfg=dict(mode='whole'),
)
val_evaluator = [dict(type='IoUMetric', iou_metrics=['mIoU']), dict(type='mmvit_ext.TrimapIoUMetric')]
test_evaluator = val_evaluator
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=150, max_keep_ckpts=1))
