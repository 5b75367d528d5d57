"""Pascal-Part-58 for measuring superpixels: 58 classes with the background, shorter side 224 pixels.

Parts of the objects of PASCAL VOC 2010, merged to 58 classes by Zhao et al., ICCV 2019. Source:
http://cvteam.net/projects/2019/multiclass-part.html. Expected below `data_root`: `JPEGImages/*.jpg` of VOC 2010, label
maps `SegmentationPart58/*.png` of one channel, where 0 is the background and 1..57 are the parts (255 is unlabelled),
and `ImageSets/Part58/val.txt`, a list of names without suffix.
"""

dataset_type = 'BaseSegDataset'
data_root = 'data/pascal_part_58'
num_classes = 58
img_edge = 224
# The mean over classes does not depend on their names, and several orders are in use.
metainfo = dict(classes=('background', *(f'part {index}' for index in range(1, num_classes))))

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
        metainfo=metainfo,
        img_suffix='.jpg',
        reduce_zero_label=False,
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationPart58'),
        ann_file='ImageSets/Part58/val.txt',
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
