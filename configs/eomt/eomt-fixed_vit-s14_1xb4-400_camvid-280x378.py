"""EoMT with ATM's fixed matching on a pretrained ViT-S/14 for CamVid: 11 queries, one for each class.

No row of a paper: heads on one backbone with one budget, see docs/real_photographs.md for data and weights.
Recipe: one process x 4 images, crops of 280x378 pixels, 400 iterations, the first six blocks frozen.
Command: mmvit train configs/eomt/eomt-fixed_vit-s14_1xb4-400_camvid-280x378.py --amp --cfg-options data_root=PATH
"""

_base_ = './eomt_vit-s14_1xb4-400_camvid-280x378.py'

model = dict(decode_head=dict(num_queries={{_base_.num_classes}}, fixed_matching=True))
