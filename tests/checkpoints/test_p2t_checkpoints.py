"""Released P2T files: four kinds, two generations. Their keys are those the authors' code and the libraries give."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmvit_ext.checkpoints.convert import convert, describe
from mmvit_ext.models.backbones import P2T
from tests.config_tools import ROOT, build_on_meta

CLASSIFIER = torch.load(Path(__file__).parents[1] / 'data' / 'p2t_128.pt', weights_only=True)['state_dict']
BACKBONE = {f'backbone.{key}': value for key, value in CLASSIFIER.items() if not key.startswith('head')}


def zeros(*names):
    return {name: torch.zeros(index + 1) for index, name in enumerate(names)}


def both(*names):
    return zeros(*(f'{name}.{parameter}' for name in names for parameter in ('weight', 'bias')))


NECK = both('neck.lateral_convs.0.conv', 'neck.lateral_convs.2.conv', 'neck.fpn_convs.0.conv', 'neck.fpn_convs.3.conv')
SEMANTIC_FPN = {
    **BACKBONE,
    **NECK,
    **both('decode_head.conv_seg'),
    **zeros(
        'decode_head.scale_heads.0.0.conv.weight',
        'decode_head.scale_heads.3.4.bn.weight',
        'decode_head.scale_heads.3.4.bn.bias',
        'decode_head.scale_heads.3.4.bn.running_mean',
        'decode_head.scale_heads.3.4.bn.running_var',
        'decode_head.scale_heads.3.4.bn.num_batches_tracked',
    ),
}
RETINANET = {
    **BACKBONE,
    **NECK,
    **both(
        'neck.fpn_convs.4.conv',
        'bbox_head.cls_convs.0.conv',
        'bbox_head.reg_convs.3.conv',
        'bbox_head.retina_cls',
        'bbox_head.retina_reg',
    ),
}
MASK_RCNN = {
    **BACKBONE,
    **NECK,
    **both(
        'rpn_head.rpn_conv',
        'rpn_head.rpn_cls',
        'rpn_head.rpn_reg',
        'roi_head.bbox_head.shared_fcs.0',
        'roi_head.bbox_head.shared_fcs.1',
        'roi_head.bbox_head.fc_cls',
        'roi_head.bbox_head.fc_reg',
        'roi_head.mask_head.convs.3.conv',
        'roi_head.mask_head.upsample',
        'roi_head.mask_head.conv_logits',
    ),
}
FILES = {'classifier': CLASSIFIER, 'Semantic FPN': SEMANTIC_FPN, 'RetinaNet': RETINANET, 'Mask R-CNN': MASK_RCNN}


def published(arch):
    """The authors' classifier of a published size, without values."""
    with torch.device('meta'):
        model = P2T(arch)
    names = {'patch_embed.projection': 'patch_embed{}.proj', 'patch_embed.norm': 'patch_embed{}.norm'}
    theirs = {}
    for name, tensor in model.state_dict().items():
        _, stage, rest = name.split('.', 2)
        stage = int(stage) + 1
        for ours, other in names.items():
            rest = rest.replace(ours, other.format(stage))
        rest = rest.replace('rpe_convs', f'd_convs{stage}').replace('blocks', f'block{stage}').replace('ffn', 'mlp')
        theirs[rest.replace('attn.q', 'attn.q.0').replace('attn.kv', 'attn.kv.0')] = tensor
    return {**theirs, 'head.weight': torch.empty(1000, model.embed_dims[-1]), 'head.bias': torch.empty(1000)}


@pytest.mark.parametrize('kind', FILES)
def test_every_weight_is_carried_over_once_and_the_kind_recognised(kind):
    converted = convert(FILES[kind], 'p2t')
    assert sorted(map(id, converted.values())) == sorted(map(id, FILES[kind].values()))
    assert describe(FILES[kind], 'p2t').startswith(kind)


@pytest.mark.parametrize(
    ('kind', 'config'),
    [
        ('Semantic FPN', 'sem-fpn_p2t-ti_8xb2-80k_ade20k-512x512.py'),
        ('RetinaNet', 'retinanet_p2t-ti_fpn_1x_coco.py'),
        ('Mask R-CNN', 'mask-rcnn_p2t-ti_fpn_1x_coco.py'),
    ],
)
def test_the_names_that_the_libraries_kept_are_those_of_our_models(kind, config):
    names = set(build_on_meta(Config.fromfile(ROOT / 'configs' / 'p2t' / config)).state_dict())
    ours = {key for key in convert(FILES[kind], 'p2t') if not key.startswith('backbone.')}
    assert ours <= names


@pytest.mark.parametrize('kind', FILES)
@pytest.mark.parametrize('extra', ['backbone.norm4.weight', 'pos_embed1', 'auxiliary_head.conv_seg.weight'])
def test_a_key_that_is_left_over_is_named(kind, extra):
    with pytest.raises(ValueError, match=rf'unknown keys (backbone\.)?{extra}'):
        convert({**FILES[kind], extra: torch.zeros(1)}, 'p2t')


@pytest.mark.parametrize(
    ('kind', 'missing', 'named'),
    [
        ('classifier', 'head.bias', 'head.bias'),
        ('classifier', 'd_convs2.1.weight', 'backbone.stages.1.rpe_convs.1.weight'),
        ('classifier', 'block3.0.mlp.conv.bias', 'backbone.stages.2.blocks.0.ffn.conv.bias'),
        ('Semantic FPN', 'decode_head.conv_seg.weight', 'decode_head.conv_seg.weight'),
        ('RetinaNet', 'bbox_head.retina_cls.weight', 'bbox_head.retina_cls.weight'),
        ('Mask R-CNN', 'rpn_head.rpn_conv.weight', 'rpn_head.rpn_conv.weight'),
        ('Mask R-CNN', 'backbone.patch_embed3.proj.weight', 'backbone.patch_embed3.proj.weight'),
    ],
)
def test_a_key_that_is_missing_is_named(kind, missing, named):
    with pytest.raises(ValueError, match=f'missing {named}'):
        convert({key: value for key, value in FILES[kind].items() if key != missing}, 'p2t')


@pytest.mark.parametrize('arch', P2T.ARCHS)
def test_the_four_published_sizes_are_recognised(arch):
    theirs = published(arch)
    assert describe(theirs, 'p2t') == f'P2T-{arch.capitalize()} classifier: arch={arch!r}'
    with torch.device('meta'):
        ours = P2T(arch)
    converted = convert(theirs, 'p2t')
    assert {key.removeprefix('backbone.') for key in converted if 'head' not in key} == set(ours.state_dict())


def test_an_older_file_that_a_p2t_can_hold_is_converted_and_its_arguments_are_told():
    older = {
        key: value[..., : value.shape[-1] // 2 + 1, : value.shape[-1] // 2 + 1]
        if 'patch_embed' in key and 'proj.w' in key
        else value
        for key, value in published('tiny').items()
        if not key.startswith('d_convs') and not (key.startswith('block3.5.'))
    }
    told = describe(older, 'p2t')
    assert 'older generation' in told
    assert 'depths=(2, 2, 5, 3)' in told
    assert 'overlapped=False' in told
    assert 'with_rpe=False' in told
    arch = {
        'embed_dims': (48, 96, 240, 384),
        'depths': (2, 2, 5, 3),
        'mlp_ratios': (8, 8, 4, 4),
        'num_heads': (1, 2, 5, 8),
    }
    with torch.device('meta'):
        ours = P2T(arch, overlapped=False, with_rpe=False).state_dict()
    converted = {
        key.removeprefix('backbone.'): value for key, value in convert(older, 'p2t').items() if 'head' not in key
    }
    assert {key: value.shape for key, value in converted.items()} == {key: value.shape for key, value in ours.items()}


def test_an_older_file_that_no_p2t_can_hold_is_refused_with_the_reason():
    older = {**CLASSIFIER, 'patch_embed1.proj.weight': torch.zeros(8, 3, 4, 4)}
    with pytest.raises(ValueError, match=r'patches of \(4, 3, 3, 3\) pixels .* older generation'):
        convert(older, 'p2t')


def test_something_else_is_refused_with_what_would_be_taken():
    with pytest.raises(ValueError, match=r'no P2T classifier .* but layer1.0.conv1.weight'):
        convert({'layer1.0.conv1.weight': torch.zeros(1)}, 'p2t')
