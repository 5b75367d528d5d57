"""A small NesT, 0.21 GFLOPs, from scratch, on Imagenette at 128x128 pixels, in batches of 32.

No row of a paper. Data: see docs/real_photographs.md. Recipe: one process x 32 images, 20 epochs.
Command: mmvit train configs/nest/nest-nano_1xb32-20e_imagenette-128x128.py --amp --cfg-options data_root=PATH
"""

_base_ = './nest-nano_1xb64-20e_imagenette-128x128.py'

iterations = 296

train_dataloader = dict(batch_size=32)
param_scheduler = _base_.param_scheduler
param_scheduler[0].update(end=iterations)
param_scheduler[1].update(begin=iterations, end=20 * iterations)
auto_scale_lr = dict(base_batch_size=32)
