"""Figures of every class beside mmseg's means."""

import pytest
import torch

pytest.importorskip('mmseg')

from mmvit_ext.registry import METRICS


def evaluated(**settings: object) -> dict[str, float]:
    metric = METRICS.build({'type': 'mmvit_ext.ClassIoUMetric', 'iou_metrics': ['mIoU', 'mDice'], **settings})
    metric.dataset_meta = {'classes': ('ground', 'square', 'circle')}
    label = torch.tensor([[0, 0, 0, 0, 1, 1, 255, 255]])
    predicted = torch.tensor([[0, 0, 0, 1, 1, 1, 0, 1]])
    metric.process({}, [{'pred_sem_seg': {'data': predicted}, 'gt_sem_seg': {'data': label}}])
    return metric.evaluate(1)


def test_classes_stand_beside_the_means_and_absent_ones_do_not():
    found = evaluated()
    assert {name: value for name, value in found.items() if '/' in name and not name.startswith('Acc')} == {
        'IoU/ground': 75.0,
        'IoU/square': 66.67,
        'Dice/ground': 85.71,
        'Dice/square': 80.0,
    }
    assert found['mIoU'] == pytest.approx((75 + 66.67) / 2, abs=0.01)
    assert found['mDice'] == pytest.approx((85.71 + 80) / 2, abs=0.01)


def test_nothing_is_counted_when_predictions_are_only_written(tmp_path):
    metric = METRICS.build({'type': 'mmvit_ext.ClassIoUMetric', 'format_only': True, 'output_dir': str(tmp_path)})
    assert metric.compute_metrics([]) == {}
