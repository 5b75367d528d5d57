"""ADE20K, 512x512 crops, test images at sizes that a stride of 32 divides.

Training is that of ade20k_512x512.py. A test image is resized to fit into 2048x512 with its ratio kept, then each side
is rounded up to a multiple of 32 pixels, as Semantic FPN on pyramid transformers is tested.
"""

_base_ = './ade20k_512x512.py'

size_divisor = 32

round_up = dict(type='ResizeToMultiple', size_divisor=size_divisor)
test_pipeline = _base_.test_pipeline
test_pipeline.insert(2, round_up)
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1]['transforms'].insert(2, [round_up])

val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
