"""A small TNT, 0.18 GFLOPs, from scratch, on Imagenette at 128x128 pixels.

No row of a paper. Data: see docs/real_photographs.md. Recipe: one process x 64 images, 20 epochs.
Command: mmvit train configs/tnt/tnt-nano_1xb64-20e_imagenette-128x128.py --amp --cfg-options data_root=PATH
"""

_base_ = [
    '../_base_/models/classifier_tnt.py',
    '../_base_/datasets/imagenette_128.py',
    '../_base_/classification_runtime.py',
    '../_base_/schedules/imagenette_20e.py',
]

model = dict(
    data_preprocessor=dict(num_classes={{_base_.num_classes}}),
    backbone=dict(
        _delete_=True,
        type='mmvit_ext.TNT',
        arch=dict(embed_dims_outer=192, embed_dims_inner=12, num_layers=5, num_heads_outer=3, num_heads_inner=2),
        out_type='cls_token',
        img_size={{_base_.img_size}},
        drop_path_rate=0.05,
    ),
    head=dict(in_channels=192, num_classes={{_base_.num_classes}}),
    train_cfg=None,
)
