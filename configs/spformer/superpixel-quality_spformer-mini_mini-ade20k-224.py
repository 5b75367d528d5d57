"""Superpixels of the small SPFormer on the mini dataset in ADE20K's layout, beside patches and SLIC.

No row of a paper. Data: tools/make_mini_dataset.py data/mini.
Command: python tools/superpixel_quality.py configs/spformer/superpixel-quality_spformer-mini_mini-ade20k-224.py CHECKPOINT
with a checkpoint of configs/spformer/setr-superpixel_spformer-mini_1xb8-300_mini-ade20k-192x192.py.
"""

_base_ = '../_base_/superpixel_quality.py'

data_root = 'data/mini/ade/ADEChallengeData2016'
num_classes = 150

model = dict(backbone=dict(arch='tiny', depths=(2, 4), img_size=192))
test_pipeline = [
    dict(type='LoadImageFromFile', _scope_='mmvit_ext'),
    dict(type='Resize', scale=(896, 224), keep_ratio=True),
    dict(type='mmvit_ext.LoadSegAnnotations', num_classes=num_classes, reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='ADE20KDataset',
        data_root=data_root,
        reduce_zero_label=True,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
