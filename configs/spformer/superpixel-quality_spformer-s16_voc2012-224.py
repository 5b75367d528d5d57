"""Superpixels of SPFormer-S/16 on PASCAL VOC 2012, objects: the mIoU that they allow, beside patches and SLIC.

Paper: arXiv 2401.02931, section 4.2.2; published +4.2 mIoU over 16x16 patches with a network trained on ImageNet alone.
The size of the images is not published; here it is the one the network was trained at. Not trained here.
Command: python tools/superpixel_quality.py configs/spformer/superpixel-quality_spformer-s16_voc2012-224.py CHECKPOINT
with a checkpoint of configs/spformer/spformer-s16_8xb128-300e_imagenet-224x224.py.
"""

_base_ = ['../_base_/datasets/voc2012-quality_224.py', '../_base_/superpixel_quality.py']

model = dict(backbone=dict(img_size={{_base_.img_edge}}))
