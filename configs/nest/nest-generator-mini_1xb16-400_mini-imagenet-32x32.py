"""A small NesT generator of 32x32 pixels on the mini dataset in ImageNet's layout.

No row of a paper. Data: tools/make_mini_dataset.py data/mini, 240 training images. Recipe: one process x 16 images of
32x32 pixels, 400 iterations. The same budget as conv-generator-mini, and as many parameters.
Command: python tools/train.py configs/nest/nest-generator-mini_1xb16-400_mini-imagenet-32x32.py
"""

_base_ = '../_base_/mini/generation_32x32.py'

arch = dict(embed_dims=(128, 96, 64, 32), num_heads=(4, 3, 2, 1), depths=(2, 2, 2, 1))
model = dict(generator=dict(_delete_=True, type='mmvit_ext.NesTGenerator', arch=arch, noise_dims=64))
