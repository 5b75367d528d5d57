"""A small convolutional generator of 32x32 pixels, as in SAGAN, on the mini dataset in ImageNet's layout.

No row of a paper. Data: tools/make_mini_dataset.py data/mini, 240 training images. Recipe: one process x 16 images of
32x32 pixels, 400 iterations. The same budget as nest-generator-mini, and as many parameters.
Command: python tools/train.py configs/nest/conv-generator-mini_1xb16-400_mini-imagenet-32x32.py
"""

_base_ = '../_base_/mini/generation_32x32.py'

model = dict(
    generator=dict(
        _delete_=True, type='mmvit_ext.ConvGenerator', embed_dims=(216, 152, 80, 32), noise_dims=64, attention_level=2
    )
)
