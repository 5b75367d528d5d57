"""EoMT on a pretrained ViT-S/14 for CamVid with 11 classes.

No row of a paper. Weights, images, rates by depth and the number of iterations are those of
configs/segvit/segvit_vit-s14_1xb4-1200_camvid-392x518.py, for a comparison with it; 50 queries join the last three
blocks. Recipe: one process x 4 images, crops of 392x518 pixels, 1200 iterations.
Command: mmvit train configs/eomt/eomt_vit-s14_1xb4-1200_camvid-392x518.py --amp --cfg-options data_root=PATH
"""

_base_ = '../segvit/segvit_vit-s14_1xb4-1200_camvid-392x518.py'

model = dict(
    type='mmvit_ext.EoMT',
    backbone=dict(out_indices=-1),
    decode_head=dict(
        _delete_=True,
        type='mmvit_ext.EoMTHead',
        in_channels=384,
        num_classes={{_base_.num_classes}},
        num_queries=50,
        num_blocks=3,
    ),
)
custom_hooks = [dict(type='mmvit_ext.MaskAnnealingHook')]
