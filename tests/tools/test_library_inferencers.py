"""The libraries' own functions take the shipped configs: they look for loaders by their bare names."""

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from PIL import Image

from tests.config_tools import ROOT

SEG = str(ROOT / 'configs/segvit/segvit_vit-ti16_1xb8-600_mini-ade20k-192x192.py')
DET = str(ROOT / 'configs/p2t/mask-rcnn_p2t-mini_fpn_1xb8-20e_mini-coco.py')
CLS = str(ROOT / 'configs/nest/nest-mini_1xb8-450_mini-imagenet-96x96.py')

pytestmark = pytest.mark.filterwarnings('ignore')  # what the libraries warn of without a checkpoint


@pytest.fixture
def images(tmp_path):
    """A picture as an array and as a file."""
    array = np.random.default_rng(0).integers(0, 255, (72, 100, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / 'image.png')
    return array, str(tmp_path / 'image.png')


def test_mmseg(images):
    apis = pytest.importorskip('mmseg.apis')
    init_default_scope('mmseg')
    model = apis.init_model(SEG, None, device='cpu')
    for image in images:
        assert apis.inference_model(model, image).pred_sem_seg.shape == (72, 100)
    inferencer = apis.MMSegInferencer(SEG, device='cpu')
    for image in images:
        assert inferencer(image)['predictions'].shape == (72, 100)


@pytest.mark.parametrize('kind', [0, 1])
def test_mmdet(images, kind):
    apis = pytest.importorskip('mmdet.apis')
    init_default_scope('mmdet')
    model = apis.init_detector(DET, None, device='cpu')
    assert apis.inference_detector(model, images[kind]).pred_instances.masks.shape[1:] == (72, 100)
    assert len(apis.DetInferencer(DET, None, device='cpu', show_progress=False)(images[kind])['predictions']) == 1


def test_mmpretrain(images):
    mmpretrain = pytest.importorskip('mmpretrain')
    init_default_scope('mmpretrain')
    classifier = mmpretrain.ImageClassificationInferencer(CLS, pretrained=False, device='cpu')
    extractor = mmpretrain.FeatureExtractor(CLS, pretrained=False, device='cpu')
    for image in images:
        (found,) = classifier(image)
        assert found['pred_scores'].shape == (1000,)
        assert extractor(image)[0][0].shape == (256,)
