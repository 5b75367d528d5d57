"""TNT-B fine-tuned at 384x384, iNaturalist 2019.

Paper: arXiv 2103.00112, table 9; published 83.2 % top-1, 65.6 M parameters. Data: iNaturalist 2019, 384x384 pixels;
which images are trained and tested on is not published. Recipe: 8 GPUs x 128 images, 300 epochs, from the weights of
ImageNet at 224x224; everything else as in that training, but for its 10 last epochs. Not trained here.
Command: tools/dist_train.sh configs/tnt/tnt-b_8xb128-300e_inat2019-384x384.py 8
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
        arch='base',
        img_size=384,
        init_cfg=dict(type='Pretrained', checkpoint='pretrain/tnt_base.pth', prefix='backbone.'),
    ),
    head=dict(in_channels=640, num_classes={{_base_.num_classes}}),
)
