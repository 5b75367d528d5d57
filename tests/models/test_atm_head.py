import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from benchmarks.plain_atm import plain_decode, plain_fuse, plain_loss
from mmvit_ext.models.decode_heads.atm_head import ATMHead

TINY = {'in_channels': [20, 24], 'channels': 12, 'num_classes': 5, 'in_index': [0, 1], 'num_heads': 3, 'num_layers': 2}


def make(**replaced):
    torch.manual_seed(0)
    head = ATMHead(**{**TINY, **replaced})
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(std=0.3)
    return head


def features(*sizes, channels=(20, 24)):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, c, *size, generator=generator) for c, size in zip(channels, sizes, strict=True)]


def samples(label):
    return [SegDataSample(gt_sem_seg=PixelData(data=image[None])) for image in label]


@pytest.fixture
def label():
    torch.manual_seed(2)
    label = torch.randint(0, 4, (2, 41, 67))  # class 4 occurs nowhere
    label[0, :9] = 255
    return label


def test_losses_and_gradients_equal_the_plain_decoder(label):
    head, maps = make(dropout_ratio=0.0).double(), [m.double() for m in features((5, 7), (5, 7))]
    results = []
    for losses in (head.loss(maps, samples(label), None), plain_loss(head, maps, label)):
        head.zero_grad()
        sum(value for key, value in losses.items() if key.startswith('loss')).backward()
        results.append((losses, {name: p.grad.clone() for name, p in head.named_parameters()}))
    (ours, our_grads), (plain, plain_grads) = results
    assert list(ours) == ['loss_ce_0', 'loss_mask_0', 'loss_dice_0', 'loss_ce', 'loss_mask', 'loss_dice', 'acc_seg']
    for key in ours:
        torch.testing.assert_close(ours[key].double(), plain[key].double(), rtol=1e-5, atol=1e-7)
    for name, grad in our_grads.items():
        torch.testing.assert_close(grad, plain_grads[name], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize('size', [(41, 67), (80, 112), (16, 16)], ids=str)
def test_prediction_equals_the_plain_decoder_at_any_size(size):
    head, maps = make().eval(), features((5, 7), (5, 7))
    with torch.no_grad():
        ours = head.predict(maps, [{'img_shape': size}] * 2, None)
        plain = plain_fuse(*plain_decode(head, maps)[-1], size)
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    assert ours.min() >= 0
    assert ours.max() <= TINY['num_classes']


def test_padded_and_sliding_inputs_decide_the_size():
    head, maps = make().eval(), features((5, 7), (5, 7))
    padded = head.predict(maps, [{'img_shape': (40, 60), 'pad_shape': (48, 64)}] * 2, None)
    sliding = head.predict(maps, [{'img_shape': torch.Size((40, 60)), 'pad_shape': (48, 64)}] * 2, None)
    assert padded.shape[2:] == (48, 64)
    assert sliding.shape[2:] == (40, 60)


def test_the_order_of_the_queries_does_not_matter_to_the_fused_map():
    head, maps = make().eval(), features((5, 7), (5, 7))
    with torch.no_grad():
        before = head(maps)
        head.class_queries.weight.copy_(head.class_queries.weight[[3, 0, 4, 1, 2]])
        torch.testing.assert_close(head(maps), before, atol=1e-5, rtol=1e-4)


def test_every_parameter_gets_a_gradient_and_every_loss_is_finite(label):
    head = make().train()
    losses = head.loss(features((5, 7), (5, 7)), samples(label), None)
    sum(value for key, value in losses.items() if key.startswith('loss')).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    for name, parameter in head.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_a_batch_without_a_label_trains_on_with_finite_losses():
    head = make().train()
    losses = head.loss(features((5, 7), (5, 7)), samples(torch.full((2, 41, 67), 255)), None)
    sum(value for key, value in losses.items() if key.startswith('loss')).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert losses['loss_mask'] == losses['loss_dice'] == 0
    assert all(torch.isfinite(parameter.grad).all() for parameter in head.parameters())


def test_a_label_that_is_no_class_is_named():
    with pytest.raises(ValueError, match=r'label values \[7\] are outside the 5 classes'):
        make().loss(features((5, 7), (5, 7)), samples(torch.full((2, 41, 67), 7)), None)


def test_maps_of_different_sizes_accumulate_at_the_size_of_the_one_decoded_last(label):
    head = make(dropout_ratio=0.0)
    outputs = head.decode(features((10, 14), (5, 7)))
    assert [tuple(output.masks.shape[2:]) for output in outputs] == [(10, 14), (10, 14)]
    losses = head.loss(features((10, 14), (5, 7)), samples(label), None)
    assert torch.isfinite(losses['loss_mask'])


def test_layer_supervision_gives_each_layer_its_own_mask():
    head = make(in_channels=24, in_index=1, deep_supervision='layer', num_layers=3).eval()
    maps = features((10, 14), (5, 7))
    outputs = head.decode(maps)
    assert len(outputs) == 3
    tokens = head.stages[0].tokens(maps[1])
    queries = head.class_queries.weight[None].expand(2, -1, -1)
    for output, layer in zip(outputs, head.stages[0].layers, strict=True):
        queries, similarity = layer(queries, tokens, need_similarity=True)
        torch.testing.assert_close(output.masks.flatten(2), similarity)
        torch.testing.assert_close(output.logits, head.class_embed(queries))


def test_cross_entropy_ablation_trains_the_fused_map(label):
    head = make(loss='ce').train()
    losses = head.loss(features((5, 7), (5, 7)), samples(label), None)
    losses['loss_ce'].backward()
    assert set(losses) == {'loss_ce', 'acc_seg'}
    assert head.class_queries.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    'option',
    [
        {'num_heads': 4},
        {'num_layers': 3},
        {'channels': 24},
        {'dropout_ratio': 0.5},
        {'fuse_inputs': True},
        {'loss': 'ce'},
        {'loss_decode': {'type': 'mmvit_ext.ATMLoss', 'ce_weight': 2.0}},
        {'loss_decode': {'type': 'mmvit_ext.ATMLoss', 'mask_weight': 2.0}},
        {'loss_decode': {'type': 'mmvit_ext.ATMLoss', 'dice_weight': 2.0}},
        {'loss_decode': {'type': 'mmvit_ext.ATMLoss', 'no_object_weight': 0.5}},
        {'loss_decode': {'type': 'mmvit_ext.ATMLoss', 'ignore_as_negative': False}},
    ],
    ids=str,
)
def test_every_option_changes_the_losses(option, label):
    values = []
    for arguments in ({}, option):
        head = make(**arguments).train()
        torch.manual_seed(0)
        losses = head.loss(features((10, 14), (5, 7)), samples(label), None)
        values.append(sum(value for key, value in losses.items() if key.startswith('loss')).item())
    assert values[0] != pytest.approx(values[1], rel=1e-6)


def test_inputs_of_the_right_width_need_no_projection():
    head = make(in_channels=[12, 12], use_projection=False).eval()
    assert not any(
        'proj.' in name and '.cross_attn.' not in name for name, _ in head.named_parameters() if 'out_proj' not in name
    )
    assert head(features((5, 7), (5, 7), channels=(12, 12))).shape == (2, 5, 5, 7)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'in_index': [0]}, 'must have the same length'),
        ({'num_stages': 3}, 'num_stages=3, but in_index names 2 maps'),
        ({'deep_supervision': 'all'}, "'stage' or 'layer', got 'all'"),
        ({'deep_supervision': 'layer'}, 'needs a single stage'),
        ({'loss': 'focal'}, "'atm' or 'ce', got 'focal'"),
        ({'loss': 'ce', 'loss_decode': {'type': 'mmvit_ext.ATMLoss'}}, "loss='ce' does not go with"),
        ({'use_projection': False}, 'channels=12, got 24'),
        ({'num_heads': 5}, 'num_heads must divide channels, got num_heads=5 and channels=12'),
    ],
)
def test_contradicting_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_autocast_stays_close(label):
    head, maps = make(dropout_ratio=0.0), features((5, 7), (5, 7))
    exact = head.loss(maps, samples(label), None)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        rough = head.loss(maps, samples(label), None)
    for key in ('loss_ce', 'loss_mask', 'loss_dice'):
        assert rough[key].item() == pytest.approx(exact[key].item(), rel=0.03)


def test_the_head_is_found_from_mmseg_by_its_scoped_name():
    head = MODELS.build({'type': 'mmvit_ext.ATMHead', **TINY})
    assert type(head) is ATMHead


@pytest.mark.parametrize('mode', ['whole', 'slide'])
@pytest.mark.parametrize('size', [(41, 67), (64, 64), (90, 50)], ids=str)
def test_a_segmentor_predicts_every_pixel_in_both_modes(mode, size):
    test_cfg = {'mode': mode} | ({'crop_size': (32, 32), 'stride': (20, 20)} if mode == 'slide' else {})
    model = MODELS.build(
        {
            'type': 'mmseg.EncoderDecoder',
            'backbone': {
                'type': 'mmvit_ext.ViT',
                'arch': {'embed_dims': 24, 'num_layers': 2, 'num_heads': 3},
                'img_size': 32,
                'patch_size': 8,
                'out_indices': (0, 1),
            },
            'decode_head': {'type': 'mmvit_ext.ATMHead', **TINY, 'in_channels': [24, 24]},
            'test_cfg': ConfigDict(test_cfg),
        }
    ).eval()
    meta = {'img_shape': size, 'ori_shape': size, 'pad_shape': size, 'padding_size': [0, 0, 0, 0]}
    with torch.no_grad():
        (result,) = model.predict(torch.randn(1, 3, *size), [SegDataSample(metainfo=meta)])
    assert result.pred_sem_seg.data.shape == (1, *size)
    assert result.seg_logits.data.shape == (5, *size)


def test_told_classes_give_the_losses_that_a_look_at_the_labels_gives(label):
    head, maps = make(dropout_ratio=0.0), features((5, 7), (5, 7))
    looked = head.loss(maps, samples(label), None)
    told = samples(label)
    for sample, classes in zip(told, ([0, 1, 2, 3], [0, 1, 2, 3]), strict=True):
        sample.set_metainfo({'classes_present': classes})
    assert head.loss(maps, told, None) == looked
    told[1].set_metainfo({'classes_present': [0]})
    assert head.loss(maps, told, None)['loss_dice'] != looked['loss_dice']
    told[1].set_metainfo({'classes_present': [0, 7]})
    with pytest.raises(ValueError, match=r'\[7\] are outside the 5 classes'):
        head.loss(maps, told, None)


def test_no_value_of_a_device_is_read_where_the_classes_are_told(label):
    # Tensors on meta have no values: whoever asked for one would get an error.
    head, maps = make().to('meta'), [x.to('meta') for x in features((5, 7), (5, 7))]
    losses = head.loss_decode(head.decode(maps), label.to('meta'), classes=[[0, 1], [3]])
    sum(value for key, value in losses.items() if key.startswith('loss')).backward()
    with pytest.raises(NotImplementedError):
        head.loss_decode(head.decode(maps), label.to('meta'))


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split('.')[:2])) < (2, 5), reason='older dynamo does not trace the head whole'
)
def test_head_and_loss_are_one_graph_with_the_same_numbers(label):
    head, maps = make(dropout_ratio=0.0, num_layers=1), features((5, 7), (5, 7))

    def losses(label):
        return head.loss_decode(head.decode(maps), label)

    torch._dynamo.reset()
    traced = torch.compile(losses, fullgraph=True, backend='eager')(label)
    for name, value in losses(label).items():
        torch.testing.assert_close(traced[name], value, rtol=1e-5, atol=1e-6)
