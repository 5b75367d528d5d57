"""TNT's fine-tuning: 64 epochs with the settings of the training on ImageNet (arXiv 2103.00112, section 3.4).

These are in imagenet-tnt_300e.py, but for the 10 last epochs at the final rate.
"""

_base_ = './imagenet_300e.py'

max_epochs = 64

train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(cls_token=dict(decay_mult=0.0), _pos=dict(decay_mult=0.0))))
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(end=max_epochs)
custom_hooks = [dict(type='EMAHook', momentum=4e-5)]
