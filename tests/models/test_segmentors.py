import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmvit_ext.models.segmentors import ScoreTTAModel
from tests.config_tools import CONFIGS, load


def view(scores):
    sample = SegDataSample(metainfo={'img_path': 'a.jpg'})
    return sample.set_data({'seg_logits': PixelData(data=scores)}) or sample


def test_views_are_averaged_as_scores_not_after_a_softmax():
    # Pixel 0: the averages are 0.5 and 0.6; after a softmax of each view class 0 would win.
    first = torch.tensor([[[1.0, 0.2]], [[0.0, 0.1]]])
    second = torch.tensor([[[0.0, 0.2]], [[1.2, 0.1]]])
    (merged,) = ScoreTTAModel.merge_preds(None, [[view(first), view(second)]])
    torch.testing.assert_close(merged.seg_logits.data, (first + second) / 2)
    assert merged.pred_sem_seg.data.tolist() == [[[1, 0]]]
    assert merged.img_path == 'a.jpg'


SEGMENTORS = [path for path in CONFIGS if load(path).default_scope == 'mmseg']


@pytest.mark.parametrize('path', SEGMENTORS, ids=lambda path: path.stem)
def test_every_config_averages_scores_or_logits_as_its_head_gives_them(path):
    cfg = load(path)
    heads = ('mmvit_ext.ATMHead', 'mmvit_ext.EoMTHead', 'mmvit_ext.ShrunkATMHead')
    scores = cfg.model.decode_head.type in heads
    assert cfg.tta_model.type == ('mmvit_ext.ScoreTTAModel' if scores else 'SegTTAModel')
