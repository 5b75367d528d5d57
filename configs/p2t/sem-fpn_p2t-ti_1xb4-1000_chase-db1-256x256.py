"""Semantic FPN, P2T-Tiny, from scratch, vessels of CHASE_DB1.

No row of a paper. Data: see docs/real_photographs.md. Recipe: that of DRIVE, one process x 4 images of 999x960 pixels that
are enlarged 1.4 times. Command: mmvit train configs/p2t/sem-fpn_p2t-ti_1xb4-1000_chase-db1-256x256.py --amp --cfg-options data_root=PATH
"""

_base_ = './sem-fpn_p2t-ti_1xb4-1000_drive-256x256.py'

data_root = 'data/CHASE_DB1'
img_scale = (1400, 1345)

model = dict(data_preprocessor=dict(mean=[154.0, 96.0, 43.0], std=[56.0, 39.0, 30.0]))
train_pipeline = _base_.train_pipeline
train_pipeline[3].update(scale=img_scale)
test_pipeline = _base_.test_pipeline
test_pipeline[2].update(scale=img_scale)
train_dataloader = dict(dataset=dict(type='ChaseDB1Dataset', data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(type='ChaseDB1Dataset', data_root=data_root, pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(type='ChaseDB1Dataset', data_root=data_root, pipeline=test_pipeline))
