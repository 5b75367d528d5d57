"""ImageNet-1K at 64x64 without labels: the middle of each image; training images are flipped at random.

The files are those of imagenet_224.py. An evaluation compares the 50000 validation images and their mirror images with
50000 generated images.
"""

dataset_type = 'ImageNet'
data_root = 'data/imagenet'
img_size = 64
batch_size = 32
# What features are taken from; converted from released weights, or trained here.
extractor = 'configs/nest/nest-t_8xb128-300e_imagenet-224x224.py'
extractor_checkpoint = 'pretrain/nest_tiny.pth'

load = dict(type='LoadImageFromFile', _scope_='mmvit_ext')
shrink = dict(type='ResizeEdge', scale=img_size, edge='short', backend='pillow', interpolation='bicubic')
cut = dict(type='CenterCrop', crop_size=img_size)
flip = dict(type='RandomFlip', prob=0.5, direction='horizontal')
pack = dict(type='PackInputs')
train_pipeline = [load, shrink, cut, flip, pack]
test_pipeline = [load, shrink, cut, pack]

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type=dataset_type, data_root=data_root, split='train', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type=dataset_type, data_root=data_root, split='val', pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmvit_ext.FID', extractor=extractor, checkpoint=extractor_checkpoint, mirror=True)
test_evaluator = val_evaluator
