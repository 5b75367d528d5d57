"""EoMT on a pretrained ViT-S/14 for CamVid with 11 classes: 50 queries join the last three blocks.

No row of a paper: heads on one backbone with one budget, see docs/real_photographs.md for data and weights.
Recipe: one process x 4 images, crops of 280x378 pixels, 400 iterations, the first six blocks frozen.
Command: mmvit train configs/eomt/eomt_vit-s14_1xb4-400_camvid-280x378.py --amp --cfg-options data_root=PATH
"""

_base_ = [
    '../_base_/models/linear_vit-s14.py',
    '../_base_/datasets/camvid_280x378.py',
    '../_base_/schedules/photographs_400.py',
]

model = dict(
    type='mmvit_ext.EoMT',
    data_preprocessor=dict(size={{_base_.crop_size}}),
    backbone=dict(img_size={{_base_.crop_size}}, out_indices=-1),
    decode_head=dict(
        _delete_=True,
        type='mmvit_ext.EoMTHead',
        in_channels=384,
        num_classes={{_base_.num_classes}},
        num_queries=50,
        num_blocks=3,
    ),
)
tta_model = dict(type='mmvit_ext.ScoreTTAModel')
custom_hooks = [dict(type='mmvit_ext.MaskAnnealingHook')]
