"""Somebody else's mmseg project that names one of our types."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('mmseg')

import mmseg

from mmvit_ext.datasets.mini import DATA_ROOTS, make_mini_dataset

MIM = Path(mmseg.__file__).parent / '.mim'
CONFIG = """
_base_ = ['{mim}/configs/_base_/models/segmenter_vit-b16_mask.py', '{mim}/configs/_base_/datasets/ade20k.py',
          '{mim}/configs/_base_/default_runtime.py', '{mim}/configs/_base_/schedules/schedule_20k.py']
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(img_size=(64, 64), embed_dims=24, num_layers=2, num_heads=3, out_indices=(0, 1), final_norm=False),
    decode_head=dict(
        _delete_=True, type='mmvit_ext.ATMHead', in_channels=[24, 24], in_index=[0, 1], channels=12, num_heads=3,
        num_classes=150))
train_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='RandomCrop', crop_size=(64, 64)), dict(type='PackSegInputs')]
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(data_root='{data}', pipeline=train_pipeline))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root='{data}', indices=2))
test_dataloader = val_dataloader
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=2), logger=dict(interval=1))
"""


@pytest.mark.skipif(not (MIM / 'tools' / 'train.py').exists(), reason='this mmseg came without its tools')
def test_an_mmseg_config_with_our_head_trains_with_mmsegs_own_script(tmp_path):
    make_mini_dataset(tmp_path / 'mini', images=4, size=(64, 80), seed=0)
    config = tmp_path / 'theirs.py'
    config.write_text(CONFIG.format(mim=MIM, data=tmp_path / 'mini' / DATA_ROOTS['ade20k']))
    result = subprocess.run(
        [sys.executable, str(MIM / 'tools' / 'train.py'), str(config), '--work-dir', str(tmp_path / 'work')],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (tmp_path / 'work' / 'iter_2.pth').exists()
    assert 'loss_mask_0' in result.stdout
    assert 'mIoU' in result.stdout
