"""Semantic FPN, P2T-Tiny, from scratch, vessels of CHASE_DB1.

No row of a paper. Data: see docs/real_photographs.md. Recipe: that of DRIVE with 3000 iterations, one process x 4 images of
999x960 pixels that are enlarged twice.
Command: mmvit train configs/p2t/sem-fpn_p2t-ti_1xb4-3000_chase-db1-256x256.py --amp --cfg-options data_root=PATH
"""

_base_ = './sem-fpn_p2t-ti_1xb4-1000_drive-256x256.py'

data_root = 'data/CHASE_DB1'
img_scale = (2000, 1921)
max_iters = 3000

model = dict(data_preprocessor=dict(mean=[154.0, 96.0, 43.0], std=[56.0, 39.0, 30.0]))
train_pipeline = _base_.train_pipeline
train_pipeline[3].update(scale=img_scale)
test_pipeline = _base_.test_pipeline
test_pipeline[2].update(scale=img_scale)
train_dataloader = dict(dataset=dict(type='ChaseDB1Dataset', data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(type='ChaseDB1Dataset', data_root=data_root, pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(type='ChaseDB1Dataset', data_root=data_root, pipeline=test_pipeline))
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(end=max_iters)
