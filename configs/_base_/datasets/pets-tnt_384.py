"""Oxford-IIIT Pets at 384x384 to fine-tune TNT, with the pipelines of imagenet-tnt_384.py (arXiv 2103.00112, table 9).

37 classes, 3680 training and 3669 test images, the two lists of the dataset; the paper does not say which images it
trains and tests on. Source: https://www.robots.ox.ac.uk/~vgg/data/pets. Expected below `data_root`: `images/*.jpg` and
`annotations/{trainval,test}.txt`.
"""

_base_ = './imagenet-tnt_384.py'

num_classes = 37
data_root = 'data/pets'

train_dataloader = dict(dataset=dict(type='OxfordIIITPet', data_root=data_root, split='trainval'))
val_dataloader = dict(dataset=dict(type='OxfordIIITPet', data_root=data_root, split='test'))
test_dataloader = val_dataloader
