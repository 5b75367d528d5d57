"""Equality with numbers recorded from the authors' implementations (tests/data, float32 on a CPU)."""

from pathlib import Path

import pytest
import torch

from mmvit_ext.checkpoints.convert import convert
from mmvit_ext.models.backbones import P2T, TNT, NesT

DATA = Path(__file__).parent / 'data'


def load(name):
    return torch.load(DATA / name, weights_only=True)


def our_name(state_dict, key, method):
    """What the converter calls a key of the authors'."""
    marked = {**state_dict, key: torch.full_like(state_dict[key], float('nan'))}
    (name,) = [name for name, tensor in convert(marked, method).items() if tensor.isnan().any()]
    return name


def atm_head(config):
    decode_heads = pytest.importorskip('mmvit_ext.models.decode_heads')
    stages = config['num_stages']
    return decode_heads.ATMHead(
        in_channels=[config['in_channels']] * stages,
        channels=config['embed_dims'],
        num_classes=config['num_classes'],
        in_index=list(range(stages)),
        num_heads=config['num_heads'],
        num_layers=config['num_layers'],
        dropout_ratio=0.0,
    )


def shrunk_head(config):
    decode_heads = pytest.importorskip('mmvit_ext.models.decode_heads')
    return decode_heads.ShrunkATMHead(
        in_channels=[config['in_channels']] * 2,
        channels=config['embed_dims'],
        num_classes=config['num_classes'],
        img_size=config['img_size'],
        num_heads=config['num_heads'],
        num_layers=config['num_layers'],
        dropout_ratio=0.0,
    )


@pytest.mark.parametrize('name', ['segvit_atm.pt', 'segvit_atm_1stage.pt', 'segvit_shrunk.pt'])
def test_atm_head_gives_the_authors_numbers(name):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    record = load(name)
    head = (shrunk_head if record['system'] == 'ShrunkATMHead' else atm_head)(record['config'])
    head.load_state_dict(convert(record['state_dict'], 'segvit'), strict=True)
    features, size = record['features'], (record['config']['img_size'],) * 2

    head.eval()
    with torch.no_grad():
        fused = head.predict(features, [{'img_shape': size}], None)
    torch.testing.assert_close(fused, record['eval_pred'], atol=1e-5, rtol=0)

    head.train()
    outputs = head.decode(features)
    for ours, theirs in zip(outputs[:-1], record['aux'], strict=True):
        torch.testing.assert_close(ours.logits, theirs['pred_logits'], atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.masks, theirs['pred_masks'], atol=1e-5, rtol=0)
    final = record['train_out']
    torch.testing.assert_close(outputs[-1].logits, final['pred_logits'], atol=1e-5, rtol=0)
    upsampled = torch.nn.functional.interpolate(outputs[-1].masks, size=size, mode='bilinear')
    torch.testing.assert_close(upsampled, final['pred_masks'], atol=1e-5, rtol=0)
    torch.testing.assert_close(head.fuse(outputs[-1], size), final['pred'], atol=1e-5, rtol=0)

    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in record['label']]
    losses = head.loss(features, samples, None)
    assert set(losses) == set(record['losses'])
    for key, value in record['losses'].items():
        torch.testing.assert_close(losses[key], value, rtol=1e-4, atol=0, msg=key)
    sum(value for key, value in losses.items() if key.startswith('loss')).backward()
    gradients = {name: parameter.grad for name, parameter in head.named_parameters()}
    for key, theirs in record['grads'].items():
        ours = gradients[our_name(record['state_dict'], key, 'segvit')]
        assert torch.norm(ours - theirs) < 1e-4 * torch.norm(theirs), key


@pytest.mark.parametrize('name', ['p2t_128.pt', 'p2t_128x224.pt'])
def test_p2t_gives_the_authors_numbers(name):
    record = load(name)
    arch = {key: record['config'][key] for key in ('embed_dims', 'num_heads', 'depths', 'mlp_ratios')}
    converted = convert(record['state_dict'], 'p2t')
    backbone = P2T(arch).eval()
    backbone.load_state_dict(
        {key.removeprefix('backbone.'): value for key, value in converted.items() if key.startswith('backbone.')},
        strict=True,
    )
    with torch.no_grad():
        features = backbone(record['input'])
    for ours, theirs in zip(features, record['features'], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize('name', ['p2t_128.pt', 'p2t_128x224.pt'])
def test_a_p2t_classifier_of_mmpretrain_gives_the_authors_logits(name):
    models = pytest.importorskip('mmpretrain.models')
    record = load(name)
    arch = {key: record['config'][key] for key in ('embed_dims', 'num_heads', 'depths', 'mlp_ratios')}
    classifier = models.ImageClassifier(
        data_preprocessor={'type': 'mmpretrain.ClsDataPreprocessor'},
        backbone={'type': 'mmvit_ext.P2T', 'arch': arch, 'out_indices': (3,)},
        neck={'type': 'mmpretrain.GlobalAveragePooling'},
        head={
            'type': 'mmpretrain.LinearClsHead',
            'num_classes': record['config']['num_classes'],
            'in_channels': arch['embed_dims'][-1],
        },
    ).eval()
    classifier.load_state_dict(convert(record['state_dict'], 'p2t'), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(classifier(record['input']), record['logits'], atol=1e-5, rtol=0)


NEST_ARGUMENTS = ('img_size', 'patch_size', 'block_size')


def test_nest_gives_the_recorded_numbers():
    record = load('nest_64.pt')
    arch = {key: record['config'][key] for key in ('embed_dims', 'num_heads', 'depths')}
    arguments = {key: record['config'][key] for key in NEST_ARGUMENTS}
    converted = convert(record['state_dict'], 'nest')
    backbone = NesT(arch, final_norm=False, **arguments).eval()
    backbone.load_state_dict(
        {key.removeprefix('backbone.'): value for key, value in converted.items() if key.startswith('backbone.')},
        strict=True,
    )
    with torch.no_grad():
        features = backbone(record['input'])
    for ours, theirs in zip(features, record['features'], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_a_nest_classifier_of_mmpretrain_gives_the_recorded_logits():
    models = pytest.importorskip('mmpretrain.models')
    record = load('nest_64.pt')
    arch = {key: record['config'][key] for key in ('embed_dims', 'num_heads', 'depths')}
    arguments = {key: record['config'][key] for key in NEST_ARGUMENTS}
    classifier = models.ImageClassifier(
        data_preprocessor={'type': 'mmpretrain.ClsDataPreprocessor'},
        backbone={'type': 'mmvit_ext.NesT', 'arch': arch, 'out_indices': (2,), **arguments},
        neck={'type': 'mmpretrain.GlobalAveragePooling'},
        head={
            'type': 'mmpretrain.LinearClsHead',
            'num_classes': record['config']['num_classes'],
            'in_channels': arch['embed_dims'][-1],
        },
    ).eval()
    classifier.load_state_dict(convert(record['state_dict'], 'nest'), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(classifier(record['input']), record['logits'], atol=1e-5, rtol=0)


def tnt_arguments(config):
    names = ('embed_dims_outer', 'embed_dims_inner', 'num_heads_outer', 'num_heads_inner')
    return {
        'arch': {**{name: config[name] for name in names}, 'num_layers': config['depth']},
        'img_size': config['img_size'],
        'patch_size': config['patch_size'],
        'inner_stride': config['inner_stride'],
    }


@pytest.mark.parametrize('name', ['tnt_64.pt', 'tnt_stride8.pt'])
def test_tnt_gives_the_authors_words_tokens_and_maps(name):
    record = load(name)
    converted = convert(record['state_dict'], 'tnt')
    backbone = TNT(**tnt_arguments(record['config']), out_indices=tuple(range(record['config']['depth']))).eval()
    backbone.load_state_dict(
        {key.removeprefix('backbone.'): value for key, value in converted.items() if key.startswith('backbone.')},
        strict=True,
    )
    with torch.no_grad():
        words, tokens, grid = backbone.embed(record['input'])
        for index, (inner, outer) in enumerate(zip(record['inner_tokens'], record['outer_tokens'], strict=True)):
            words, tokens = backbone.blocks[index](words, tokens)
            torch.testing.assert_close(words, inner, atol=1e-5, rtol=0)
            torch.testing.assert_close(tokens, outer, atol=1e-5, rtol=0)
        maps = backbone(record['input'])
    for feature, theirs in zip(maps, [*record['outer_tokens'][:-1], record['final_norm']], strict=True):
        torch.testing.assert_close(feature, theirs[:, 1:].transpose(1, 2).unflatten(2, grid), atol=1e-5, rtol=0)


@pytest.mark.parametrize('name', ['tnt_64.pt', 'tnt_stride8.pt'])
def test_a_tnt_classifier_of_mmpretrain_gives_the_authors_logits(name):
    models = pytest.importorskip('mmpretrain.models')
    record = load(name)
    classifier = models.ImageClassifier(
        data_preprocessor={'type': 'mmpretrain.ClsDataPreprocessor'},
        backbone={'type': 'mmvit_ext.TNT', **tnt_arguments(record['config']), 'out_type': 'cls_token'},
        head={
            'type': 'mmpretrain.LinearClsHead',
            'num_classes': record['config']['num_classes'],
            'in_channels': record['config']['embed_dims_outer'],
        },
    ).eval()
    classifier.load_state_dict(convert(record['state_dict'], 'tnt'), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(classifier(record['input']), record['logits'], atol=1e-5, rtol=0)


EOMT = {
    'dinov2': {'model': 'vit_small_patch14_reg4_dinov2', 'img_size': 56},
    'dinov2-swiglu': {'model': 'vit_giant_patch14_reg4_dinov2', 'img_size': 56},
    'dinov3': {'model': 'vit_small_patch16_dinov3_qkvb', 'img_size': 64, 'mlp_ratio': 2},
}


@pytest.mark.parametrize('name', EOMT)
def test_eomt_gives_the_numbers_of_transformers(name):
    """Recorded from transformers 5.24.0: normal weights of deviation 0.2, and masks in no, all or the last block."""
    pytest.importorskip('timm')
    pytest.importorskip('mmseg')
    pytest.importorskip('mmdet')
    from mmvit_ext.registry import MODELS

    record = load('eomt.pt')['networks'][list(EOMT).index(name)]
    state = convert({key: value.float() for key, value in record['state_dict'].items()}, 'eomt')
    backbone = {'type': 'mmvit_ext.TimmViT', 'embed_dim': 32, 'depth': 4, 'num_heads': 4, **EOMT[name]}
    if 'swiglu' in name:
        backbone['mlp_ratio'] = record['state_dict']['layers.0.mlp.down_proj.weight'].shape[1] / 16
    head = {'type': 'mmvit_ext.EoMTHead', 'in_channels': 32, 'num_classes': 4, 'num_queries': 5, 'num_blocks': 2}
    model = MODELS.build({'type': 'mmvit_ext.EoMT', 'backbone': backbone, 'decode_head': head}).eval()
    model.load_state_dict(state, strict=True)
    for expected in record['outputs']:
        model.decode_head.set_mask_probabilities(expected['mask_probabilities'])
        with torch.no_grad():
            found = model.extract_feat(record['img'].float()).stages[-1]
        torch.testing.assert_close(found.logits, expected['classes'], rtol=0, atol=1e-5)
        torch.testing.assert_close(found.masks, expected['masks'], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ('size', 'starts'),
    [
        ((64, 160), [0, 48, 96]),
        ((64, 129), [0, 32, 65]),
        ((200, 64), [0, 45, 90, 136]),
        ((64, 64), [0]),
        ((64, 333), [0, 53, 107, 161, 215, 269]),
    ],
)
def test_eomt_cuts_images_as_transformers_does(size, starts):
    """Recorded from the EomtImageProcessor of transformers 5.24.0, with an edge of 64 pixels."""
    pytest.importorskip('mmseg')
    pytest.importorskip('mmdet')
    from mmvit_ext.registry import MODELS

    backbone = {'type': 'mmvit_ext.ViT', 'arch': {'embed_dims': 16, 'num_layers': 2, 'num_heads': 2, 'mlp_ratio': 2}}
    model = MODELS.build(
        {
            'type': 'mmvit_ext.EoMT',
            'backbone': {**backbone, 'img_size': 64, 'final_norm': True},
            'decode_head': {'type': 'mmvit_ext.EoMTHead', 'in_channels': 16, 'num_classes': 2, 'num_blocks': 1},
            'test_cfg': {'mode': 'slide', 'crop_size': (64, 64), 'stride': (64, 64)},
        }
    )
    windows = [window[0 if size[0] > size[1] else 1] for window in model.windows(size)]
    assert [(span.start, span.stop) for span in windows] == [(start, start + 64) for start in starts]
