"""EoMT for classes on a pretrained ViT-S/14, 100 images of COCO, which it is also tested on, to be learnt by heart.

No row of a paper: see docs/real_photographs.md for data and weights. Recipe: one process x 4 images in a frame of
322x518 or 518x322 pixels, 400 iterations without flips; 100 queries join the last three blocks, the first six are frozen.
Command: mmvit train configs/eomt/eomt_vit-s14_1xb4-400_coco128-322x518.py --amp --cfg-options data_root=PATH
"""

_base_ = [
    '../_base_/models/linear_vit-s14.py',
    '../_base_/datasets/coco128-semantic_322x518.py',
    '../_base_/schedules/photographs_400.py',
]

model = dict(
    type='mmvit_ext.EoMT',
    data_preprocessor=dict(size_divisor=14),
    backbone=dict(img_size=(322, 518), out_indices=-1, drop_path_rate=0.0),
    decode_head=dict(
        _delete_=True,
        type='mmvit_ext.EoMTHead',
        in_channels=384,
        num_classes={{_base_.num_classes}},
        num_queries=100,
        num_blocks=3,
        num_points=4096,
    ),
)
tta_model = dict(type='mmvit_ext.ScoreTTAModel')
custom_hooks = [dict(type='mmvit_ext.MaskAnnealingHook')]
