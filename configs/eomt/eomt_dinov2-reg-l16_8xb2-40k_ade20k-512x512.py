"""EoMT-L, ADE20K, 512x512.

Source: arXiv 2503.19108 and the authors' model zoo (DINOv2), mIoU 58.4. Recipe: 8 GPUs x 2 images, 40000 iterations,
learning rate 1e-4 falling by 0.8 per block, windows along the long side in tests. Not trained here.
Command: tools/dist_train.sh configs/eomt/eomt_dinov2-reg-l16_8xb2-40k_ade20k-512x512.py 8 --amp
"""

_base_ = [
    '../_base_/models/eomt_dinov2-reg-l16.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/eomt.py',
    '../_base_/default_runtime.py',
]
