"""Semantic FPN, NesT-T, ADE20K.

Paper: arXiv 2105.12723; the paper has no row for it. A fourth map of stride 32 is made of the third by one more block
aggregation. Data: ADE20K, 512x512 crops. Recipe: that of P2T (arXiv 2106.12011), 8 GPUs x 2 images, 80k iterations from
ImageNet weights of the classification config here or the converted ones of the authors. Not trained here.
Command: tools/dist_train.sh configs/nest/sem-fpn_nest-t_8xb2-80k_ade20k-512x512.py 8
"""

_base_ = [
    '../_base_/models/sem-fpn_nest.py',
    '../_base_/datasets/ade20k-multiple32_512x512.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/sem-fpn_80k.py',
]

model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    decode_head=dict(num_classes={{_base_.num_classes}}),
)
