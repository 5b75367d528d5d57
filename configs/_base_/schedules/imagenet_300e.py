"""DeiT's 300 epochs of ImageNet, total batch 1024: AdamW, lr 5e-4 per 512 images, 5 warm-up epochs (arXiv 2012.12877).

Biases, normalisation and other one-dimensional parameters do not decay. The cosine runs over all epochs and the warm-up
is multiplied in, as timm's scheduler does, which the authors of DeiT, TNT and P2T use.
"""

max_epochs = 300
warmup_epochs = 5
base_batch_size = 1024
lr = 5e-4 * base_batch_size / 512

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=lr, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-6 / lr,
        by_epoch=True,
        begin=0,
        end=warmup_epochs,
        convert_to_iter_based=True,
    ),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=0, end=max_epochs),
]
auto_scale_lr = dict(enable=False, base_batch_size=base_batch_size)
