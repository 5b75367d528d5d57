"""What every classification run has in common: logging and checkpoints, counted in epochs."""

_base_ = './environment.py'

default_scope = 'mmpretrain'

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=100),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='mmvit_ext.AtomicCheckpointHook', interval=1, save_best='accuracy/top1', max_keep_ckpts=3),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='VisualizationHook', enable=False),
)

visualizer = dict(type='UniversalVisualizer', vis_backends={{_base_.vis_backends}})
log_processor = dict(by_epoch=True)
