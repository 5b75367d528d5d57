"""Mask R-CNN, ResNet-18 of mmdet, from scratch, cell nuclei: what mask-rcnn_p2t-ti_* is compared with.

No row of a paper. Data and recipe: those of mask-rcnn_p2t-ti_fpn_1xb4-10e_nuclei-256x256, one process x 4 images, 14
epochs, which take as long as 10 of P2T-Tiny on a CPU in float32.
Command: mmvit train configs/p2t/mask-rcnn_r18_fpn_1xb4-14e_nuclei-256x256.py --amp --cfg-options data_root=PATH
"""

_base_ = './mask-rcnn_p2t-ti_fpn_1xb4-10e_nuclei-256x256.py'

max_epochs = 14

model = dict(
    backbone=dict(_delete_=True, type='mmdet.ResNet', depth=18, norm_eval=False, frozen_stages=-1, style='pytorch'),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(end=max_epochs)
