"""NesT's generator, unconditional ImageNet at 64x64.

Paper: arXiv 2105.12723; its FID is a curve, of which our source has no figure. Published are the transposed hierarchy,
PixelShuffle, five levels and 1000 epochs; widths, layers, blocks of 4x4, discriminator, losses, optimizers and batch
are our choices. Data: ImageNet-1K, 64x64 pixels. Recipe: 8 GPUs x 32 images, 1000 epochs in 5005000 iterations. Not
trained here.
Command: bash tools/dist_train.sh configs/nest/nest-generator_8xb32-1000e_imagenet-64x64.py 8
"""

_base_ = [
    '../_base_/models/gan_nest.py',
    '../_base_/datasets/imagenet-generation_64.py',
    '../_base_/schedules/gan.py',
    '../_base_/generation_runtime.py',
]
