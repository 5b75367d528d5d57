"""What every segmentation run has in common: logging and checkpoints, counted in iterations."""

_base_ = './environment.py'

default_scope = 'mmseg'

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='mmvit_ext.AtomicCheckpointHook', by_epoch=False, interval=8000, save_best='mIoU', max_keep_ckpts=3
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
)

visualizer = dict(type='SegLocalVisualizer', name='visualizer', vis_backends={{_base_.vis_backends}})
log_processor = dict(by_epoch=False)
