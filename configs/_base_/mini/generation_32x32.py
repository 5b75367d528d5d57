"""Small trainings of generators on the mini dataset in ImageNet's layout, 32x32 pixels.

An evaluation compares 480 generated images with the 240 training images and their mirror images: the held-out images
are too few for a covariance.
"""

_base_ = [
    '../models/gan_nest.py',
    '../datasets/imagenet-generation_64.py',
    '../schedules/gan.py',
    '../generation_runtime.py',
]

data_root = 'data/mini/imagenet'
img_size = 32
max_iters = 400
# What features are taken from: train it first.
extractor = 'configs/nest/nest-mini_1xb8-450_mini-imagenet-96x96.py'
extractor_checkpoint = 'work_dirs/nest-mini_1xb8-450_mini-imagenet-96x96/iter_450.pth'

model = dict(
    discriminator=dict(embed_dims=(32, 64, 128), attention_level=0),
    r1_weight=0.1,
    r1_interval=4,
    average_momentum=0.01,
    fakes_per_image=2,
)
train_pipeline = _base_.train_pipeline
train_pipeline[1].update(scale=img_size)
train_pipeline[2].update(crop_size=img_size)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=img_size)
test_pipeline[2].update(crop_size=img_size)
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root, pipeline=train_pipeline),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root, split='train', pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(extractor=extractor, checkpoint=extractor_checkpoint)
test_evaluator = val_evaluator

optim_wrapper = dict(
    generator=dict(optimizer=dict(lr=2e-4, betas=(0.0, 0.99))),
    discriminator=dict(optimizer=dict(lr=8e-4, betas=(0.0, 0.99))),
)
# At constant rates the distance rises again.
param_scheduler = [
    dict(type='LinearLR', start_factor=1.0, end_factor=0.01, by_epoch=False, begin=max_iters // 2, end=max_iters)
]
train_cfg = dict(max_iters=max_iters, val_interval=100)
auto_scale_lr = dict(base_batch_size=16)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=max_iters))
custom_hooks = [dict(type='mmvit_ext.SampleHook', interval=100)]
