"""NesT's 300 epochs, total batch 1024: AdamW, lr 2.5e-4 per 256 images, 20 warm-up epochs, cosine (arXiv 2105.12723).

Position embeddings do not decay. Warm-up begins with 0, but for a millionth that the scheduler needs; the cosine
follows it and ends with 0.
"""

max_epochs = 300
warmup_epochs = 20
base_batch_size = 1024
lr = 2.5e-4 * base_batch_size / 256

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=lr, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(custom_keys=dict(pos_embed=dict(decay_mult=0.0))),
)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-6,
        by_epoch=True,
        begin=0,
        end=warmup_epochs,
        convert_to_iter_based=True,
    ),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=True, begin=warmup_epochs, end=max_epochs),
]
auto_scale_lr = dict(enable=False, base_batch_size=base_batch_size)
