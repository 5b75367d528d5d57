"""ImageNet-1K at 384x384 for TNT, to fine-tune with the augmentation of the training at 224x224.

The files are those of imagenet_224.py. Test images are cut out of a shorter side of 425 pixels, in proportion to 248 at
224; the paper does not say.
"""

_base_ = './imagenet_224.py'

img_size = 384
test_size = 425
crop, flip, augment = _base_.train_pipeline[1:4]
train_pipeline = [
    _base_.train_pipeline[0],
    dict(
        type='RandomChoice',
        transforms=[
            [
                dict(crop, scale=img_size, interpolation=interpolation),
                flip,
                dict(augment, hparams=dict(augment['hparams'], interpolation=interpolation)),
            ]
            for interpolation in ('bilinear', 'bicubic')
        ],
    ),
    *_base_.train_pipeline[4:],
]
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=test_size)
test_pipeline[2].update(crop_size=img_size)

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
