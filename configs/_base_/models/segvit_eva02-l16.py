"""SegViT with EVA-02-L (arXiv 2303.11331): class queries decode layers 7, 15 and 23 (counted from 0).

The patches of 14 pixels are resized to 16 when the weights are loaded, as the authors do for segmentation.
"""

_base_ = './segvit_vit-l16.py'

model = dict(
    data_preprocessor=dict(mean=[122.771, 116.746, 104.094], std=[68.501, 66.632, 70.323]),
    backbone=dict(
        _delete_=True,
        type='mmvit_ext.TimmViT',
        model='eva02_large_patch14_448.mim_m38m_ft_in22k',
        checkpoint='timm',
        patch_size=16,
        out_indices=(7, 15, 23),
        drop_path_rate=0.2,
    ),
)
