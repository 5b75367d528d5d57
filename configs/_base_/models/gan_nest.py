"""NesT's generator for 64x64 pixels against a residual convolutional discriminator.

Published is the generator's shape (arXiv 2105.12723); sizes, discriminator and loss weights are our choices.
"""

model = dict(
    type='mmvit_ext.AdversarialModel',
    generator=dict(type='mmvit_ext.NesTGenerator', arch='64', noise_dims=128),
    discriminator=dict(type='mmvit_ext.ConvDiscriminator', embed_dims=(64, 128, 256, 512), attention_level=0),
    r1_weight=1.0,
    r1_interval=16,
    average_momentum=0.0005,
)
