"""Which test images the commands measure that take a number of them."""

from pathlib import Path

import pytest
from mmengine.config import Config

from mmvit_ext.config.loading import prepare_scope
from mmvit_ext.evaluation.loop import build_test_loader

pytest.importorskip('mmpretrain')


@pytest.fixture
def folders(tmp_path: Path) -> Config:
    """Four classes of three files each, which a dataset reads one class after the other."""
    for name in ('a', 'b', 'c', 'd'):
        (tmp_path / name).mkdir()
        for number in range(3):
            (tmp_path / name / f'{number}.jpg').touch()
    dataset = dict(type='CustomDataset', data_root=str(tmp_path), with_label=True, pipeline=[])
    loader = dict(batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dataset)
    cfg = Config(dict(default_scope='mmpretrain', test_dataloader=loader, test_evaluator=dict(type='Accuracy')))
    prepare_scope(cfg)
    return cfg


@pytest.mark.parametrize(
    ('images', 'labels'),
    [(4, [0, 1, 2, 3]), (2, [0, 3]), (1, [0]), (99, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3])],
)
def test_a_few_images_are_spread_over_the_classes(folders: Config, images: int, labels: list[int]) -> None:
    dataset = build_test_loader(folders, images=images).dataset
    assert [dataset.get_data_info(index)['gt_label'] for index in range(len(dataset))] == labels


def test_images_inside_a_wrapper_are_counted_there(folders: Config) -> None:
    inner = folders.test_dataloader.dataset
    folders.test_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=inner)
    assert len(build_test_loader(folders, images=4).dataset) == 8
