"""RetinaNet, ResNet-18 of mmdet, from scratch, blood cells of BCCD: what retinanet_p2t-ti_* is compared with.

No row of a paper. Data and recipe: those of retinanet_p2t-ti_fpn_1xb4-20e_bccd-240x320, one process x 4 images, 30
epochs, which take about as long as 20 of P2T-Tiny on a CPU.
Command: mmvit train configs/p2t/retinanet_r18_fpn_1xb4-30e_bccd-240x320.py --amp --cfg-options data_root=PATH
"""

_base_ = './retinanet_p2t-ti_fpn_1xb4-20e_bccd-240x320.py'

max_epochs = 30

model = dict(
    backbone=dict(_delete_=True, type='mmdet.ResNet', depth=18, norm_eval=False, frozen_stages=-1, style='pytorch'),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(end=max_epochs)
