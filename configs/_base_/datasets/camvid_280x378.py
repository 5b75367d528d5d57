"""CamVid with 11 classes, as camvid_392x518, near its own size: crops of 280x378 pixels, whole images in tests."""

_base_ = './camvid_392x518.py'

crop_size = (280, 378)
img_scale = (504, 378)

train_pipeline = _base_.train_pipeline
train_pipeline[2].update(ratio_range=(0.8, 1.6))
train_pipeline[3].update(crop_size=crop_size)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=img_scale)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
