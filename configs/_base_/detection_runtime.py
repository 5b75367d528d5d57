"""What every detection run has in common: logging and checkpoints, counted in epochs."""

_base_ = './environment.py'

default_scope = 'mmdet'

# Images of many sizes: the search for the fastest convolution would start anew at each of them.
env_cfg = dict(cudnn_benchmark=False)

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='mmvit_ext.AtomicCheckpointHook', interval=1, save_best='coco/bbox_mAP', max_keep_ckpts=3),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='DetVisualizationHook'),
)

visualizer = dict(type='DetLocalVisualizer', name='visualizer', vis_backends={{_base_.vis_backends}})
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
