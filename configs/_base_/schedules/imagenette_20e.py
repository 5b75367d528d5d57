"""20 epochs of 148 iterations of 64 images for small networks on Imagenette, learning rate 1e-3."""

max_epochs = 20
iterations = 148

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=False, begin=0, end=iterations),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=False, begin=iterations, end=max_epochs * iterations),
]
auto_scale_lr = dict(enable=False, base_batch_size=64)
