"""ImageNet-1K at 224x224 for TNT: test images are cut out of a shorter side of 248 pixels, as of the released weights.

The files and the training are those of imagenet_224.py.
"""

_base_ = './imagenet_224.py'

test_size = 248
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=test_size)

val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
