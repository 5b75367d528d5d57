"""ImageNet-1K at 224x224 for TNT: test images are cut out of a shorter side of 248 pixels, as of the released weights.

The files are those of imagenet_224.py. In training every image is interpolated bilinearly or bicubically by chance, as
in the authors' training script.
"""

_base_ = './imagenet_224.py'

test_size = 248
crop, flip, augment = _base_.train_pipeline[1:4]
train_pipeline = [
    _base_.train_pipeline[0],
    dict(
        type='RandomChoice',
        transforms=[
            [
                dict(crop, interpolation=interpolation),
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

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
