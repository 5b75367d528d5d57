"""SETR with superpixel logits, SPFormer-S/16, ADE20K, from scratch.

Paper: arXiv 2401.02931; published 3.0 mIoU more than naive SETR with DeiT-S; the absolute figure is not in our source.
Data: ADE20K, 512x512 crops. Recipe: 8 GPUs x 2 images, 160k iterations. The paper leaves the schedule to a supplement
that we do not have: optimiser, schedule and the window's step (two thirds of the crop) are those of mmseg's naive SETR
on ADE20K, drop path is that of its Segmenter; no auxiliary heads. Not trained here.
Command: tools/dist_train.sh configs/spformer/setr-superpixel_spformer-s16-scratch_8xb2-160k_ade20k-512x512.py 8
"""

_base_ = [
    '../_base_/models/setr-superpixel_spformer.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/setr_160k.py',
]

crop_size = {{_base_.crop_size}}

model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(img_size=crop_size, init_cfg=None),
    decode_head=dict(num_classes={{_base_.num_classes}}),
    test_cfg=dict(crop_size=crop_size, stride=(341, 341)),
)
