"""What every training of a generator has in common: logging, checkpoints and samples, counted in iterations."""

_base_ = './classification_runtime.py'

default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=10000, save_best='FID', rule='less', max_keep_ckpts=1),
)
custom_hooks = [dict(type='mmvit_ext.SampleHook', interval=10000)]
log_processor = dict(by_epoch=False)
# Generator and discriminator are wrapped each on its own.
model_wrapper_cfg = dict(type='MMSeparateDistributedDataParallel', broadcast_buffers=False)
# Each process draws its own noise.
randomness = dict(diff_rank_seed=True)
