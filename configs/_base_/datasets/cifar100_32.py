"""CIFAR-100: 32x32 pixels, NesT's augmentation (arXiv 2105.12723), that of cifar10_32.py.

100 classes, 50000 training and 10000 test images. Source: https://www.cs.toronto.edu/~kriz/cifar.html, the Python
version. Expected below `data_root`: `cifar-100-python/{train,test,meta}`. Nothing is downloaded: unpack
the archive there first. Mixup and CutMix work on batches and stand with the model.
"""

_base_ = './cifar10_32.py'

dataset_type = 'CIFAR100'
data_root = 'data/cifar100'
num_classes = 100
mean = [129.304, 124.07, 112.434]
std = [68.2125, 65.4075, 70.4055]

train_pipeline = _base_.train_pipeline
train_pipeline[2].update(hparams=dict(pad_val=[round(value) for value in mean], interpolation='bicubic'))
train_pipeline[3].update(fill_color=mean, fill_std=std)

train_dataloader = dict(dataset=dict(type=dataset_type, data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(type=dataset_type, data_root=data_root))
test_dataloader = val_dataloader
