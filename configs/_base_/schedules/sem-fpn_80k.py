"""Semantic FPN over 80k iterations, total batch 16: AdamW, poly decay, no warm-up (arXiv 2106.12011)."""

_base_ = './schedule_80k.py'

max_iters = 80000

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-4))
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=1e-6, by_epoch=False, begin=0, end=max_iters)]
auto_scale_lr = dict(enable=False, base_batch_size=16)
