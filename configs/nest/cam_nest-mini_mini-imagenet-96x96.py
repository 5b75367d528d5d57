"""Localisation by class activation maps of the small NesT, on the mini dataset's true boxes.

No row of a paper. Data: tools/make_mini_dataset.py data/mini, 60 held-out images, each resized as a whole to 96x96 pixels.
Command: python tools/test.py configs/nest/cam_nest-mini_mini-imagenet-96x96.py CHECKPOINT
with a checkpoint of configs/nest/nest-mini_1xb8-450_mini-imagenet-96x96.py. Another classifier whose head takes the mean
of a map: the same changes to its config.
"""

_base_ = './nest-mini_1xb8-450_mini-imagenet-96x96.py'

img_size = 96

model = dict(type='mmvit_ext.CAMClassifier')
# All of the image, because what is cut off cannot be localised, and one block at the top, as in training.
test_pipeline = [
    dict(type='LoadImageFromFile', _scope_='mmvit_ext'),
    dict(type='mmvit_ext.LoadBoxes'),
    dict(
        type='mmvit_ext.TrackPlacement',
        transforms=[dict(type='Resize', scale=(img_size, img_size), backend='pillow', interpolation='bicubic')],
    ),
    dict(type='PackInputs', meta_keys=('img_path', 'ori_shape', 'img_shape', 'boxes', 'placement')),
]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_evaluator = [dict(type='Accuracy', topk=1), dict(type='mmvit_ext.CAMLocalization')]
