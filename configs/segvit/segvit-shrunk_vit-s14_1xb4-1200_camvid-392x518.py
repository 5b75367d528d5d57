"""SegViT with the Shrunk structure on a pretrained ViT-S/14 for CamVid with 11 classes.

No row of a paper. All but the grid, which is halved at block 6, is that of
configs/segvit/segvit_vit-s14_1xb4-1200_camvid-392x518.py, for a comparison with it.
Recipe: one process x 4 images, crops of 392x518 pixels, 1200 iterations.
Command: mmvit train configs/segvit/segvit-shrunk_vit-s14_1xb4-1200_camvid-392x518.py --amp --cfg-options data_root=PATH
"""

_base_ = './segvit_vit-s14_1xb4-1200_camvid-392x518.py'

model = dict(
    backbone=dict(shrink_index=6, out_indices=(5, 11)),
    decode_head=dict(
        type='mmvit_ext.ShrunkATMHead',
        in_channels=[384, 384],
        in_index=[0, 1],
        img_size={{_base_.crop_size}},
        query_start='tokens',
        query_stride=14,
    ),
)
