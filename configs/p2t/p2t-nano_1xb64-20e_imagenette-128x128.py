"""A small P2T, 0.19 GFLOPs, from scratch, on Imagenette at 128x128 pixels.

No row of a paper. Data: see docs/real_photographs.md. Recipe: one process x 64 images, 20 epochs.
Command: mmvit train configs/p2t/p2t-nano_1xb64-20e_imagenette-128x128.py --amp --cfg-options data_root=PATH
"""

_base_ = [
    '../_base_/models/classifier_p2t.py',
    '../_base_/datasets/imagenette_128.py',
    '../_base_/classification_runtime.py',
    '../_base_/schedules/imagenette_20e.py',
]

model = dict(
    data_preprocessor=dict(num_classes={{_base_.num_classes}}),
    backbone=dict(
        _delete_=True,
        type='mmvit_ext.P2T',
        arch=dict(embed_dims=(32, 64, 160, 256), num_heads=(1, 2, 5, 8), depths=(2, 2, 3, 2), mlp_ratios=(8, 8, 4, 4)),
        out_indices=(3,),
        drop_path_rate=0.05,
    ),
    head=dict(in_channels=256, num_classes={{_base_.num_classes}}),
    train_cfg=None,
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=10.0))))  # why: see p2t-mini
