"""PASCAL VOC 2012 segmentation for measuring superpixels: 21 classes with the background, shorter side 224 pixels.

1449 validation images, no training. Source: http://host.robots.ox.ac.uk/pascal/VOC/voc2012
(`VOCtrainval_11-May-2012.tar`). Expected below `data_root`: `JPEGImages/*.jpg`, `SegmentationClass/*.png`, where 0 is
the background, 1..20 are the objects and 255 is unlabelled, and the list `ImageSets/Segmentation/val.txt`.
"""

dataset_type = 'PascalVOCDataset'
data_root = 'data/VOCdevkit/VOC2012'
num_classes = 21
img_edge = 224

# The annotations are loaded after the resize: the metric compares at the size of the original image.
test_pipeline = [
    dict(type='LoadImageFromFile', _scope_='mmvit_ext'),
    dict(type='ResizeShortestEdge', scale=img_edge, max_size=4096),
    dict(type='mmvit_ext.LoadSegAnnotations', num_classes=num_classes, reduce_zero_label=False),
    dict(type='PackSegInputs'),
]
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        reduce_zero_label=False,
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
        ann_file='ImageSets/Segmentation/val.txt',
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
