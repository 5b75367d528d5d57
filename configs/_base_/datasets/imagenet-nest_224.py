"""ImageNet-1K at 224x224 with NesT's augmentation (arXiv 2105.12723). The files are those of imagenet_224.py.

Over DeiT's: colour jitter 0.3, and every image once in an epoch.
"""

_base_ = './imagenet_224.py'

jitter = dict(type='ColorJitter', brightness=0.3, contrast=0.3, saturation=0.3)
train_pipeline = _base_.train_pipeline
train_pipeline.insert(3, jitter)

train_dataloader = dict(
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True), dataset=dict(pipeline=train_pipeline)
)
