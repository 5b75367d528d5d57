"""DeiT's 300 epochs of ImageNet, total batch 1024 (arXiv 2012.12877, table 9): AdamW, lr 5e-4 per 512 images, cosine.

Biases, normalisation, scales and position embeddings do not decay.
"""

_base_ = './imagenet_300e.py'

optim_wrapper = dict(
    paramwise_cfg=dict(
        norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0, custom_keys=dict(pos_embed=dict(decay_mult=0.0))
    )
)
