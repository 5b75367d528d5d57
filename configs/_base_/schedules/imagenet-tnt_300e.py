"""TNT's 300 epochs of ImageNet, total batch 1024: AdamW 1e-3, weight decay 0.05 (arXiv 2103.00112); the rest is DeiT's.

Biases, normalisation, the class token and position embeddings do not decay.
"""

_base_ = './imagenet_300e.py'

optim_wrapper = dict(
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
        custom_keys=dict(cls_token=dict(decay_mult=0.0), _pos=dict(decay_mult=0.0)),
    )
)
