"""A convolutional generator as in SAGAN, unconditional ImageNet at 64x64, to compare NesT's with.

No row of a paper: arXiv 2105.12723 compares with a SAGAN of like size, whose sizes our source does not tell. As many
parameters as nest-generator, within 2 %, the same discriminator and recipe. Data: ImageNet-1K, 64x64 pixels. Recipe:
8 GPUs x 32 images, 1000 epochs in 5005000 iterations. Not trained here.
Command: bash tools/dist_train.sh configs/nest/conv-generator_8xb32-1000e_imagenet-64x64.py 8
"""

_base_ = './nest-generator_8xb32-1000e_imagenet-64x64.py'

model = dict(
    generator=dict(
        _delete_=True,
        type='mmvit_ext.ConvGenerator',
        embed_dims=(1792, 960, 480, 240, 64),
        noise_dims=128,
        attention_level=3,
    )
)
