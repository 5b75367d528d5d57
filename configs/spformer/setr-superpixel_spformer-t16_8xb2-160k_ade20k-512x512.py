"""SETR with superpixel logits, SPFormer-T/16, ADE20K, from ImageNet weights.

Paper: arXiv 2401.02931; this size has no figure in our source. Data: ADE20K, 512x512 crops. Recipe: 8 GPUs x 2 images,
160k iterations. The paper leaves the schedule to a supplement that we do not have: optimiser, schedule and the window's
step (two thirds of the crop) are those of mmseg's naive SETR on ADE20K, drop path is that of its Segmenter; no
auxiliary heads. Weights: of the classification config here, or DeiT converted with `deit`. Not trained here.
Command: tools/dist_train.sh configs/spformer/setr-superpixel_spformer-t16_8xb2-160k_ade20k-512x512.py 8
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
    backbone=dict(arch='tiny', img_size=crop_size, init_cfg=dict(checkpoint='pretrain/spformer_tiny.pth')),
    decode_head=dict(in_channels=192, num_classes={{_base_.num_classes}}),
    test_cfg=dict(crop_size=crop_size, stride=(341, 341)),
)
