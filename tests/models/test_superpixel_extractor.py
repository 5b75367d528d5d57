"""The model that predicts superpixels: what it gives, and whose checkpoints it takes."""

import pytest
import torch
from mmengine.structures import BaseDataElement
from torch import nn

from mmvit_ext.checkpoints.report import load_weights
from mmvit_ext.models.backbones.spformer import SPFormer
from mmvit_ext.models.superpixel_extractor import SuperpixelExtractor

BACKBONE = {
    'type': 'mmvit_ext.SPFormer',
    'arch': {'embed_dims': 12, 'depths': (1, 2), 'num_heads': 3, 'sca_heads': 2},
    'img_size': 32,
}


@pytest.fixture
def extractor():
    torch.manual_seed(0)
    model = SuperpixelExtractor(BACKBONE).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@torch.no_grad()
def test_every_sample_gets_its_own_similarities_of_every_module_and_iteration(extractor):
    images = torch.randn(2, 3, 41, 23)
    samples = [BaseDataElement(metainfo={'img_path': name}) for name in 'ab']
    predicted = extractor(images, samples, mode='predict')
    assert [sample.img_path for sample in predicted] == ['a', 'b']
    for index, sample in enumerate(predicted):
        found = sample.to_dict()['superpixels']
        assert (found['cell_size'], found['pixel_stride']) == (4, 4)
        assert found['similarity'].shape == (2, 2, 2, 9, 11, 6)
        history = extractor.backbone.run(images[index : index + 1])[1]
        for module in range(2):
            for iteration in range(2):
                expected = history[module][iteration][0]
                torch.testing.assert_close(found['similarity'][module, iteration], expected, atol=1e-4, rtol=1e-4)
    history = extractor(images)
    assert len(history) == 2
    assert torch.equal(history[1][0][1], predicted[1].superpixels.similarity[1, 0])


@torch.no_grad()
def test_samples_are_made_where_none_are_given(extractor):
    (sample,) = extractor(torch.randn(1, 3, 16, 16), mode='predict')
    assert sample.superpixels.similarity.shape == (2, 2, 2, 9, 4, 4)


def test_the_checkpoint_of_a_classifier_fits_without_its_head(extractor):
    classifier = nn.Module()
    classifier.backbone = SPFormer(**{k: v for k, v in BACKBONE.items() if k != 'type'}, out_type='avg_featmap')
    classifier.head = nn.Linear(12, 7)
    report = load_weights(extractor, classifier.state_dict())
    assert report.exact, str(report)
    for name, value in extractor.backbone.named_parameters():
        assert torch.equal(value, classifier.backbone.get_parameter(name)), name


def test_a_checkpoint_of_another_backbone_does_not_pass_for_one(extractor):
    report = load_weights(extractor, {'backbone.conv1.weight': torch.zeros(3), 'head.weight': torch.zeros(2)})
    assert report.unexpected == ('backbone.conv1.weight',)
    assert not report.matched


def test_a_backbone_without_superpixels_and_a_loss_are_refused(extractor):
    with pytest.raises(ValueError, match=r'backbone must be a mmvit_ext\.SPFormer, .* got ViT'):
        SuperpixelExtractor({'type': 'mmvit_ext.ViT', 'arch': 'tiny', 'num_layers': 1})
    with pytest.raises(ValueError, match="got 'loss'"):
        extractor(torch.zeros(1, 3, 16, 16), mode='loss')
