"""A small SPFormer, from scratch, on the mini dataset in ImageNet's layout.

No row of a paper. Data: tools/make_mini_dataset.py data/mini. Recipe: one process x 16 images of 96x96 pixels, 10 epochs.
Command: python tools/train.py configs/spformer/spformer-mini_1xb16-10e_mini-imagenet-96x96.py
"""

_base_ = [
    '../_base_/models/classifier_spformer.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/classification_runtime.py',
]

data_root = 'data/mini/imagenet'
img_size = 96
test_size = 110
max_epochs = 10
embed_dims = 128

model = dict(
    backbone=dict(
        arch='tiny', embed_dims=embed_dims, num_heads=4, depths=(2, 4), img_size=img_size, drop_path_rate=0.0
    ),
    head=dict(in_channels=embed_dims, num_classes={{_base_.num_classes}}),
)
train_pipeline = _base_.train_pipeline
train_pipeline[1].update(scale=img_size)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=test_size)
test_pipeline[2].update(crop_size=img_size)
train_dataloader = dict(
    batch_size=16, num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root, pipeline=train_pipeline)
)
val_dataloader = dict(
    batch_size=16, num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root, pipeline=test_pipeline)
)
test_dataloader = val_dataloader

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=max_epochs)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=15),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=1, end=max_epochs),
]
auto_scale_lr = dict(enable=False, base_batch_size=16)
default_hooks = dict(logger=dict(interval=5), checkpoint=dict(max_keep_ckpts=1))
