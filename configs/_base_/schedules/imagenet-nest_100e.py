"""NesT's schedule of ImageNet cut to 100 epochs, warm-up included."""

_base_ = './imagenet-nest_300e.py'

max_epochs = 100
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(end=max_epochs)
