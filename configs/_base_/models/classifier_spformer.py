"""ImageNet classifier with SPFormer-S/16: the normalised mean of the superpixels, a linear layer, DeiT's mixing."""

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        num_classes=1000,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
    backbone=dict(
        type='mmvit_ext.SPFormer',
        arch='small',
        img_size=224,
        out_type='avg_featmap',
        norm_cfg=dict(type='LN', eps=1e-6),
        drop_path_rate=0.1,
    ),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=384,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
