"""A linear head on a pretrained ViT-S/14 for CamVid with 11 classes.

No row of a paper. All but the head, one linear layer on the last block's tokens with cross entropy, is that of
configs/segvit/segvit_vit-s14_1xb4-1200_camvid-392x518.py, for a comparison with it.
Recipe: one process x 4 images, crops of 392x518 pixels, 1200 iterations.
Command: mmvit train configs/segvit/linear_vit-s14_1xb4-1200_camvid-392x518.py --amp --cfg-options data_root=PATH
"""

_base_ = './segvit_vit-s14_1xb4-1200_camvid-392x518.py'

model = dict(
    backbone=dict(out_indices=-1),
    decode_head=dict(
        _delete_=True,
        type='FCNHead',
        in_channels=384,
        in_index=0,
        channels=384,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes={{_base_.num_classes}},
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
)
tta_model = dict(_delete_=True, type='SegTTAModel')
