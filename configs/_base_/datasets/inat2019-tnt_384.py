"""iNaturalist 2019 at 384x384 to fine-tune TNT, with the pipelines of imagenet-tnt_384.py (arXiv 2103.00112, table 9).

1010 classes, 265213 training and 3030 validation images, the competition's as far as known (not verified); the paper
does not say which images it trains and tests on. Source: https://github.com/visipedia/inat_comp. Expected below
`data_root`: `train_val2019/*/*/*.jpg`, and `meta/{train,val}.txt` with a path below `data_root` and a class number per
line, which are `file_name` and `category_id` of `train2019.json` and `val2019.json`.
"""

_base_ = './imagenet-tnt_384.py'

num_classes = 1010
data_root = 'data/inat2019'
dataset = dict(_delete_=True, type='CustomDataset', data_root=data_root)

train_dataloader = dict(dataset=dict(dataset, ann_file='meta/train.txt', pipeline={{_base_.train_pipeline}}))
val_dataloader = dict(dataset=dict(dataset, ann_file='meta/val.txt', pipeline={{_base_.test_pipeline}}))
test_dataloader = val_dataloader
