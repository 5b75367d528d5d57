"""DeiT's 300 epochs of ImageNet (arXiv 2012.12877, table 9); position embeddings do not decay either."""

_base_ = './imagenet_300e.py'

optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(pos_embed=dict(decay_mult=0.0))))
