"""ImageNet-1K at 224x224 with DeiT's augmentation (arXiv 2012.12877, table 9).

1000 classes, 1281167 training and 50000 validation images. Source: https://image-net.org (ILSVRC 2012). Expected below
`data_root`: `train/<wnid>/*.JPEG` and `val/<wnid>/*.JPEG`, or `meta/{train,val}.txt` with a path and a class number
per line. Mixup and CutMix work on batches and stand with the model.
"""

dataset_type = 'ImageNet'
data_root = 'data/imagenet'
num_classes = 1000
img_size = 224
# Shorter side that a test image is resized to before the middle is cut out: 224 / 0.875.
test_size = 256
mean = [123.675, 116.28, 103.53]
std = [58.395, 57.12, 57.375]

train_pipeline = [
    dict(type='LoadImageFromFile', _scope_='mmvit_ext'),
    dict(type='RandomResizedCrop', scale=img_size, backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(
        type='RandAugment',
        policies='timm_increasing',
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        # Images are BGR until the data preprocessor turns them.
        hparams=dict(pad_val=[round(value) for value in mean[::-1]], interpolation='bicubic'),
    ),
    dict(
        type='RandomErasing',
        erase_prob=0.25,
        mode='rand',
        min_area_ratio=0.02,
        max_area_ratio=1 / 3,
        fill_color=mean[::-1],
        fill_std=std[::-1],
    ),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', _scope_='mmvit_ext'),
    dict(type='ResizeEdge', scale=test_size, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=img_size),
    dict(type='PackInputs'),
]

train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    # Every image three times in an epoch of the same length, each time augmented anew.
    sampler=dict(type='RepeatAugSampler', shuffle=True, num_repeats=3),
    dataset=dict(type=dataset_type, data_root=data_root, split='train', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type=dataset_type, data_root=data_root, split='val', pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
