"""Naive SETR's optimisation over 160k iterations, total batch 16: SGD, poly decay (arXiv 2012.15840).

The config that mmseg has for it on ADE20K (momentum 0.9, no weight decay, the head learns ten times as fast).
"""

_base_ = './schedule_160k.py'

max_iters = 160000

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0),
    paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=10.0))),
)
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=1e-4, by_epoch=False, begin=0, end=max_iters)]
auto_scale_lr = dict(enable=False, base_batch_size=16)
