"""P2T's 300 epochs of ImageNet: DeiT's, with the 20 warm-up epochs of the authors' training script."""

_base_ = './imagenet_300e.py'

warmup_epochs = 20
param_scheduler = _base_.param_scheduler
param_scheduler[0].update(end=warmup_epochs)
