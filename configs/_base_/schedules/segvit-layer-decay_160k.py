"""SegViT's schedule over 160k iterations with learning rates that fall with the depth of a large pretrained ViT.

Rate, weight decay and decay by depth are those with which arXiv 2503.19108 fine-tunes DINOv2 for segmentation.
"""

_base_ = './segvit_160k.py'

optim_wrapper = dict(
    constructor='mmvit_ext.LayerDecayConstructor',
    optimizer=dict(lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(_delete_=True, decay_rate=0.8),
)
