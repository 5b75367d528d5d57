"""EoMT's optimisation (arXiv 2503.19108): AdamW, rates by depth, two warm-ups and polynomial decay, masks annealed.

A leaf sets `param_scheduler.end` and `train_cfg.max_iters` to the number of its iterations.
"""

train_cfg = dict(type='IterBasedTrainLoop', max_iters=40000, val_interval=4000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmvit_ext.LayerDecayConstructor',
    paramwise_cfg=dict(decay_rate=0.8),
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=0.01, norm_type=2),
)
param_scheduler = dict(type='mmvit_ext.TwoStagePolyLR', warmup=(500, 1000), power=0.9, end=40000)
custom_hooks = [dict(type='mmvit_ext.MaskAnnealingHook')]
auto_scale_lr = dict(enable=False, base_batch_size=16)
