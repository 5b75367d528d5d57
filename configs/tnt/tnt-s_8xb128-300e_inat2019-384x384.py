"""TNT-S fine-tuned at 384x384, iNaturalist 2019.

Paper: arXiv 2103.00112, table 9; published 81.4 % top-1, 23.8 M parameters. Data: iNaturalist 2019, 384x384 pixels;
which images are trained and tested on is not published. Recipe: 8 GPUs x 128 images, 300 epochs, from the weights of
ImageNet at 224x224; everything else as in that training, but for its 10 last epochs. Not trained here.
Command: tools/dist_train.sh configs/tnt/tnt-s_8xb128-300e_inat2019-384x384.py 8
"""

_base_ = [
    '../_base_/models/classifier_tnt.py',
    '../_base_/datasets/inat2019-tnt_384.py',
    '../_base_/schedules/transfer-tnt_300e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    data_preprocessor=dict(num_classes={{_base_.num_classes}}),
    backbone=dict(
        arch='small',
        img_size=384,
        init_cfg=dict(type='Pretrained', checkpoint='pretrain/tnt_small.pth', prefix='backbone.'),
    ),
    head=dict(num_classes={{_base_.num_classes}}),
)
