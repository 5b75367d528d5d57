"""CIFAR-10: 32x32 pixels, NesT's augmentation (arXiv 2105.12723): crops from 2 pixels of padding, no colour jitter.

10 classes, 50000 training and 10000 test images. Source: https://www.cs.toronto.edu/~kriz/cifar.html, the Python
version. Expected below `data_root`: `cifar-10-batches-py/{data_batch_1,...,data_batch_5,test_batch}`. Nothing is downloaded: unpack
the archive there first. Mixup and CutMix work on batches and stand with the model.
"""

dataset_type = 'CIFAR10'
data_root = 'data/cifar10'
num_classes = 10
img_size = 32
mean = [125.307, 122.961, 113.8575]
std = [63.0105, 62.0925, 66.708]

# The images are RGB as they come.
train_pipeline = [
    dict(type='RandomCrop', crop_size=img_size, padding=2),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(
        type='RandAugment',
        policies='timm_increasing',
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=[round(value) for value in mean], interpolation='bicubic'),
    ),
    dict(
        type='RandomErasing',
        erase_prob=0.25,
        mode='rand',
        min_area_ratio=0.02,
        max_area_ratio=1 / 3,
        fill_color=mean,
        fill_std=std,
    ),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='PackInputs')]

train_dataloader = dict(
    batch_size=192,
    num_workers=4,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type=dataset_type, data_root=data_root, split='train', download=False, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=4,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type=dataset_type, data_root=data_root, split='test', download=False, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
