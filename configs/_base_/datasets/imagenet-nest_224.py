"""ImageNet-1K at 224x224 with NesT's augmentation (arXiv 2105.12723). The files are those of imagenet_224.py.

Over DeiT's: the colour jitter of SimCLR v2 with strength 0.3 behind RandAugment, and every image once in an epoch.
"""

_base_ = './imagenet_224.py'

train_pipeline = _base_.train_pipeline
train_pipeline[4:4] = [
    dict(
        type='RandomApply',
        transforms=[dict(type='ColorJitter', brightness=0.24, contrast=0.24, saturation=0.24, hue=0.06)],
        prob=0.8,
    ),
    # The weights of luma, in the order of the images, which are BGR until the data preprocessor turns them.
    dict(type='RandomGrayscale', prob=0.2, keep_channels=True, channel_weights=(0.114, 0.587, 0.299)),
]

train_dataloader = dict(
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True), dataset=dict(pipeline=train_pipeline)
)
