"""CIFAR-10 enlarged to 384x384 pixels, to fine-tune TNT with the augmentation of ImageNet (arXiv 2103.00112, table 9).

The files are those of cifar10_32.py. What is erased or turned out of the image is filled with colours of CIFAR-10. Test images are enlarged whole; the paper does not say.
"""

_base_ = './cifar10_32.py'

img_size = 384
flip, augment = _base_.train_pipeline[1:3]
train_pipeline = [
    dict(
        type='RandomChoice',
        transforms=[
            [
                dict(type='RandomResizedCrop', scale=img_size, backend='pillow', interpolation=interpolation),
                flip,
                dict(augment, hparams=dict(augment['hparams'], interpolation=interpolation)),
            ]
            for interpolation in ('bilinear', 'bicubic')
        ],
    ),
    *_base_.train_pipeline[3:],
]
test_pipeline = [
    dict(type='ResizeEdge', scale=img_size, edge='short', backend='pillow', interpolation='bicubic'),
    *_base_.test_pipeline,
]

train_dataloader = dict(
    batch_size=128,
    sampler=dict(_delete_=True, type='RepeatAugSampler', shuffle=True, num_repeats=3),
    dataset=dict(pipeline=train_pipeline),
)
val_dataloader = dict(batch_size=128, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
