"""TNT's fine-tuning on fine-grained datasets: as transfer-tnt_64e.py for 300 epochs (arXiv 2103.00112, section 3.4)."""

_base_ = './transfer-tnt_64e.py'

max_epochs = 300

train_cfg = dict(max_epochs=max_epochs)
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(end=max_epochs)
