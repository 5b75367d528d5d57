"""CamVid with 11 classes, as camvid_392x518, at its own size: crops of 288x384 pixels, whole images in tests."""

_base_ = './camvid_392x518.py'

crop_size = (288, 384)
img_scale = (480, 360)

train_pipeline = _base_.train_pipeline
train_pipeline[2].update(ratio_range=(0.8, 1.6))
train_pipeline[3].update(crop_size=crop_size)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=img_scale)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
