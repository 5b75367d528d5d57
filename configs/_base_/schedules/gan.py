"""Two Adam optimizers at constant rates, counted in iterations; the discriminator's is the larger one (arXiv 1805.08318)."""

max_iters = 5005000

optim_wrapper = dict(
    constructor='mmvit_ext.MultiOptimWrapperConstructor',
    generator=dict(optimizer=dict(type='Adam', lr=1e-4, betas=(0.0, 0.9))),
    discriminator=dict(optimizer=dict(type='Adam', lr=4e-4, betas=(0.0, 0.9))),
)
param_scheduler = None
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=50000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(enable=False, base_batch_size=256)
