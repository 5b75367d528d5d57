"""mIoU near label edges."""

import numpy as np
import pytest
import torch
from scipy import ndimage

pytest.importorskip('mmseg')

from mmvit_ext.evaluation.trimap_iou import TrimapIoUMetric, trimap
from mmvit_ext.registry import METRICS


def test_the_band_is_as_wide_as_asked_on_both_sides_of_an_edge():
    label = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1, 1]]).expand(4, 9)
    assert trimap(label, 2)[0].tolist() == [False, False, False, True, True, True, True, False, False]


def test_unlabelled_pixels_are_outside_and_make_no_edge():
    label = torch.tensor([[0, 0, 255, 1, 1, 1, 255, 1, 1]])
    assert trimap(label, 2)[0].tolist() == [False, True, False, True, False, False, False, False, False]


def test_the_band_equals_a_search_around_every_pixel():
    label = torch.from_numpy(np.random.default_rng(0).choice([0, 1, 7, 255], (13, 17), p=[0.6, 0.2, 0.1, 0.1]))
    for width in (1, 2, 3):
        slow = torch.zeros_like(label, dtype=torch.bool)
        for y, x in np.ndindex(*label.shape):
            window = label[max(y - width, 0) : y + width + 1, max(x - width, 0) : x + width + 1]
            slow[y, x] = label[y, x] != 255 and len(set(window[window != 255].tolist())) > 1
        assert torch.equal(trimap(label, width), slow)


def test_the_figure_is_that_of_the_pixels_in_the_band():
    label = torch.zeros(20, 20, dtype=torch.long)
    label[5:15, 5:15] = 1
    shifted = torch.from_numpy(ndimage.shift(label.numpy(), (0, 1), order=0, mode='nearest'))
    metric = METRICS.build({'type': 'mmvit_ext.TrimapIoUMetric', 'width': 1})
    assert isinstance(metric, TrimapIoUMetric)
    metric.dataset_meta = {'classes': ('ground', 'square')}
    metric.process({}, [{'pred_sem_seg': {'data': shifted[None]}, 'gt_sem_seg': {'data': label[None]}}])
    # The band is a ring of 36 pixels inside the square and one of 44 outside. The shift takes 10 pixels of its left
    # column away, of which all are in the inner ring, and adds 10 of the outer one.
    square, ground = 26 / (36 + 10), 34 / (44 + 10)
    assert metric.evaluate(1)['trimap/mIoU'] == pytest.approx(100 * (square + ground) / 2, abs=0.01)


def test_a_width_below_one_pixel_is_refused():
    with pytest.raises(ValueError, match='width must be at least 1 pixel, got 0'):
        TrimapIoUMetric(0)


@pytest.mark.parametrize('options', [{'output_dir': 'out'}, {'format_only': True}])
def test_writing_predictions_is_not_for_this_metric(options):
    with pytest.raises(ValueError, match=r'are for mmseg\.IoUMetric'):
        TrimapIoUMetric(**options)
