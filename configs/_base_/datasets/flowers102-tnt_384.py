"""Oxford Flowers-102 at 384x384 to fine-tune TNT, with the pipelines of imagenet-tnt_384.py (arXiv 2103.00112, table 9).

102 classes, 2040 training and 6149 test images. The paper does not say which images it trains and tests on; here it is
trained on the dataset's training and validation images, as is usual. Source:
https://www.robots.ox.ac.uk/~vgg/data/flowers/102. Expected below `data_root`: `jpg/*.jpg`, `imagelabels.mat` and
`setid.mat`.
"""

_base_ = './imagenet-tnt_384.py'

num_classes = 102
data_root = 'data/flowers102'

train_dataloader = dict(dataset=dict(type='Flowers102', data_root=data_root, split='trainval'))
val_dataloader = dict(dataset=dict(type='Flowers102', data_root=data_root, split='test'))
test_dataloader = val_dataloader
