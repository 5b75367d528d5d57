"""TNT's ImageNet: DeiT's 300 epochs and 10 more at the final rate, with averaged weights (arXiv 2103.00112).

The 10 epochs and the average (decay 0.99996), which is what is evaluated, are those of the authors' training command.
The class token and position embeddings do not decay either.
"""

_base_ = './imagenet_300e.py'

train_cfg = dict(max_epochs=310)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(cls_token=dict(decay_mult=0.0), _pos=dict(decay_mult=0.0))))
custom_hooks = [dict(type='EMAHook', momentum=4e-5)]
