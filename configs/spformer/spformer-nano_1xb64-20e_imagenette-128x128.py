"""A small SPFormer, 0.21 GFLOPs, from scratch, on Imagenette at 128x128 pixels.

No row of a paper. Data: see docs/real_photographs.md. Recipe: one process x 64 images, 20 epochs,
learning rate 5e-4.
Command: mmvit train configs/spformer/spformer-nano_1xb64-20e_imagenette-128x128.py --amp --cfg-options data_root=PATH
"""

_base_ = [
    '../_base_/models/classifier_spformer.py',
    '../_base_/datasets/imagenette_128.py',
    '../_base_/classification_runtime.py',
    '../_base_/schedules/imagenette_20e.py',
]

model = dict(
    data_preprocessor=dict(num_classes={{_base_.num_classes}}),
    backbone=dict(
        arch='tiny', embed_dims=192, num_heads=3, depths=(1, 4), img_size={{_base_.img_size}}, drop_path_rate=0.05
    ),
    head=dict(in_channels=192, num_classes={{_base_.num_classes}}),
    train_cfg=None,
)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
