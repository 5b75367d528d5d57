"""Encoder-only mask transformers: equal to Hugging Face's, any size, masks, windows, losses and schedules."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from mmvit_ext.checkpoints.convert import add_base, convert
from mmvit_ext.engine import LayerDecayConstructor, MaskAnnealingHook, TwoStagePolyLR
from mmvit_ext.errors import UserError
from mmvit_ext.inference.export import TORCH
from mmvit_ext.interpret.atm_masks import _decode, stage_names
from mmvit_ext.models.eomt import predict_with_queries
from mmvit_ext.registry import MODELS

VIT = {
    'type': 'mmvit_ext.ViT',
    'arch': {'embed_dims': 32, 'num_layers': 4, 'num_heads': 4, 'mlp_ratio': 2},
    'img_size': 64,
    'patch_size': 8,
    'final_norm': True,
}
DINOV2 = {'type': 'mmvit_ext.TimmViT', 'model': 'vit_small_patch14_reg4_dinov2', 'img_size': 56, 'embed_dim': 32}
DINOV2 |= {'depth': 4, 'num_heads': 4}
DINOV3 = DINOV2 | {'model': 'vit_small_patch16_dinov3_qkvb', 'img_size': 64, 'mlp_ratio': 2}
EVA = DINOV2 | {'model': 'eva02_small_patch14_224', 'mlp_ratio': 2}
HEAD = {'type': 'mmvit_ext.EoMTHead', 'in_channels': 32, 'num_queries': 5, 'num_blocks': 2, 'num_points': 64}


def randomise(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


def segmentor(backbone=VIT, mode='whole', **head):
    if 'Timm' in backbone['type']:
        pytest.importorskip('timm')
    decode_head = {**HEAD, 'num_classes': 4, **head}
    test_cfg = ConfigDict(mode=mode, crop_size=(32, 32), stride=(32, 32))
    model = {'type': 'mmvit_ext.EoMT', 'backbone': backbone, 'decode_head': decode_head, 'test_cfg': test_cfg}
    return randomise(MODELS.build(ConfigDict(model))).eval()


def detector(backbone=VIT, *, stuff=2, **test_cfg):
    head = {**HEAD, 'type': 'mmvit_ext.EoMTPanopticHead', 'num_things_classes': 3, 'num_stuff_classes': stuff}
    fusion = {'type': 'mmdet.MaskFormerFusionHead', 'num_things_classes': 3, 'num_stuff_classes': stuff}
    model = {'type': 'mmvit_ext.EoMTDetector', 'backbone': backbone, 'panoptic_head': head, 'test_cfg': test_cfg}
    model |= {'panoptic_fusion_head': {**fusion, 'init_cfg': None, 'loss_panoptic': None}}
    return randomise(MODELS.build(ConfigDict(model)))


def regions(size, labels):
    """Ground truth with a rectangle for each label."""
    H, W = size
    masks = np.zeros((len(labels), H, W), dtype=np.uint8)
    for index, mask in enumerate(masks):
        mask[index * 8 : index * 8 + 12, 4:20] = 1
    return InstanceData(
        labels=torch.tensor(labels, dtype=torch.long),
        masks=BitmapMasks(masks, H, W),
        bboxes=torch.zeros(len(labels), 4),
    )


def sample_of(size, labels):
    sample = DetDataSample(
        metainfo={'img_shape': size, 'ori_shape': size, 'batch_input_shape': size, 'scale_factor': (1, 1)}
    )
    sample.gt_instances = regions(size, labels)
    return sample


TRANSFORMERS = [('dinov2', {}), ('dinov2', {'use_swiglu_ffn': True}), ('dinov3', {'layer_norm_eps': 1e-5})]


@pytest.fixture(params=TRANSFORMERS, ids=['dinov2', 'dinov2-swiglu', 'dinov3'])
def published(request):
    """A network of transformers with random weights, and ours with the same ones."""
    transformers = pytest.importorskip('transformers', reason='compared with transformers, which is not installed')
    pytest.importorskip('timm')
    kind, options = request.param
    shared = {'hidden_size': 32, 'num_hidden_layers': 4, 'num_attention_heads': 4, 'num_queries': 5, 'num_blocks': 2}
    shared |= {'num_labels': 4, **options}
    if kind == 'dinov2':
        config = transformers.EomtConfig(image_size=56, patch_size=14, **shared)
        theirs = transformers.EomtForUniversalSegmentation(config)
    else:
        if not hasattr(transformers, 'EomtDinov3Config'):
            pytest.skip('this version of transformers has no EoMT with DINOv3')
        config = transformers.EomtDinov3Config(image_size=64, patch_size=16, intermediate_size=64, **shared)
        theirs = transformers.EomtDinov3ForUniversalSegmentation(config)
    backbone = DINOV2 if kind == 'dinov2' else DINOV3
    if options.get('use_swiglu_ffn'):
        hidden = theirs.state_dict()['layers.0.mlp.gate_proj.weight'].shape[0]
        backbone = backbone | {'model': 'vit_giant_patch14_reg4_dinov2', 'mlp_ratio': 2 * hidden / 32}
    ours = segmentor(backbone)
    ours.load_state_dict(convert(randomise(theirs).eval().state_dict(), 'eomt'), strict=True)
    return theirs, ours


@pytest.mark.parametrize('masks', [(0.0, 0.0), (1.0, 1.0), (0.0, 1.0)], ids=['none', 'all', 'last'])
def test_classes_and_masks_are_those_of_transformers(published, masks):
    theirs, ours = published
    theirs.attn_mask_probs.copy_(torch.tensor(masks))
    ours.decode_head.set_mask_probabilities(masks)
    edge = theirs.config.image_size
    img = torch.randn(2, 3, edge, edge, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = theirs(img), ours.extract_feat(img).stages[-1]
    assert expected.masks_queries_logits.std() > 0.1
    torch.testing.assert_close(found.logits, expected.class_queries_logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.masks, expected.masks_queries_logits, rtol=0, atol=1e-5)


def test_masks_change_what_queries_see():
    model, img = segmentor(), torch.randn(1, 3, 64, 64)
    outputs = []
    for masks in ((0.0, 0.0), (1.0, 1.0)):
        model.decode_head.set_mask_probabilities(masks)
        outputs.append(model(img))
    assert not torch.allclose(*outputs, atol=1e-4)


@pytest.mark.parametrize('backbone', [VIT, DINOV2, DINOV3, EVA], ids=['vit', 'dinov2', 'dinov3', 'eva02'])
def test_images_of_any_size(backbone):
    """What is added to whole patches is cut off again, and padding by hand gives the same."""
    model = segmentor(backbone)
    patch = model.backbone.out_strides[0]
    img = torch.randn(2, 3, 41, 67)
    scores = model(img)
    assert scores.shape == (2, 4, 41, 67)
    assert scores.min() >= 0
    padded = nn.functional.pad(img, (0, -67 % patch, 0, -41 % patch))
    torch.testing.assert_close(model(padded)[..., :41, :67], scores, rtol=0, atol=1e-5)


def test_scores_are_the_sum_over_queries_of_class_probability_times_mask():
    model, img = segmentor(), torch.randn(1, 3, 32, 48)
    stage = model.extract_feat(img).stages[-1]
    masks = nn.functional.interpolate(stage.masks, size=(32, 48), mode='bilinear').sigmoid()
    expected = torch.einsum('bqc,bqhw->bchw', stage.logits.softmax(-1)[..., :-1], masks)
    torch.testing.assert_close(model(img), expected)


def test_the_mask_of_attention_by_hand():
    """Queries see class token, queries and the patches of their masks; every other token sees all."""
    head = segmentor(num_queries=2).decode_head
    tokens = SimpleNamespace(x=torch.zeros(1, 1 + 2 + 4, 32), num_prefix_tokens=3, size=(2, 2))
    masks = torch.tensor([[[[1.0, -1.0], [-1.0, 1.0]], [[-1.0, -1.0], [-1.0, -1.0]]]])
    allowed = head.attention_mask(0, masks, tokens)[0, 0]
    assert allowed[0].all()
    assert allowed[3:].all()
    assert allowed[1].tolist() == [True, True, True, True, False, False, True]
    assert allowed[2].tolist() == [True, True, True, False, False, False, False]


def test_masks_are_left_to_chance_for_each_query_in_training():
    head = segmentor(num_queries=400).decode_head.train()
    head.set_mask_probabilities((0.25, 1.0))
    tokens = SimpleNamespace(x=torch.zeros(1, 404, 32), num_prefix_tokens=400, size=(2, 2))
    kept = [
        1 - head.attention_mask(block, torch.full((1, 400, 2, 2), -1.0), tokens)[0, 0, :400, -1].float().mean()
        for block in (0, 1)
    ]
    assert kept[0] == pytest.approx(0.25, abs=0.08)
    assert kept[1] == 1


def test_evaluation_runs_without_predictions_before_the_blocks_once_masks_are_gone():
    model, img = segmentor(), torch.randn(1, 3, 64, 64)
    assert len(model.extract_feat(img).stages) == 1
    model.decode_head.set_mask_probabilities((1.0, 1.0))
    assert len(model.extract_feat(img).stages) == 3
    model.decode_head.set_mask_probabilities((0.4, 0.0))
    assert len(model.extract_feat(img).stages) == 1
    assert len(model.train().extract_feat(img).stages) == 3


def test_probabilities_are_in_the_checkpoint():
    model, other = segmentor(), segmentor()
    model.decode_head.set_mask_probabilities((0.0, 0.5))
    other.load_state_dict(model.state_dict(), strict=True)
    assert other.decode_head.mask_probabilities == (0.0, 0.5)


def test_windows_lie_evenly_along_the_long_side_and_their_scores_are_averaged():
    model, img = segmentor(mode='slide'), torch.randn(1, 3, 32, 80)
    windows = list(model.windows((32, 80)))
    assert [(rows.start, columns.start) for rows, columns in windows] == [(0, 0), (0, 24), (0, 48)]
    total, count = torch.zeros(1, 4, 32, 80), torch.zeros(80)
    for _, columns in windows:
        total[..., columns] += model(img[..., columns])
        count[columns] += 1
    found = model.inference(img, [{'ori_shape': (32, 80)}])
    torch.testing.assert_close(found, total / count)


@pytest.mark.parametrize('size', [(64, 160), (64, 129), (200, 64), (64, 64), (64, 333)])
def test_windows_are_those_of_transformers(size):
    transformers = pytest.importorskip('transformers', reason='compared with transformers, which is not installed')
    edges = {'shortest_edge': 64, 'longest_edge': None}
    processor = transformers.EomtImageProcessor(size=edges, do_split_image=True, do_pad=False)
    found = processor(images=np.zeros((*size, 3), dtype=np.uint8), return_tensors='pt')['patch_offsets']
    model = segmentor(mode='slide')
    model.test_cfg.crop_size = (64, 64)
    along = 0 if size[0] > size[1] else 1
    windows = [window[along] for window in model.windows(size)]
    assert [[span.start, span.stop] for span in windows] == [[int(edge) for edge in entry[1:]] for entry in found]


def test_a_semantic_loss_reaches_every_parameter():
    model = segmentor().train()
    img, samples = torch.randn(2, 3, 41, 67), []
    for classes in ((0, 1), (3, 255)):
        label = torch.full((1, 41, 67), classes[0])
        label[:, 20:] = classes[1]
        samples.append(SegDataSample(gt_sem_seg=PixelData(data=label)))
    losses = model.loss(img, samples)
    assert {'decode.loss_cls', 'decode.d0.loss_mask', 'decode.d1.loss_dice'} <= set(losses)
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_training_and_scores_in_half_precision():
    model, img = segmentor().train(), torch.randn(2, 3, 64, 64)
    model.decode_head.set_mask_probabilities((1.0, 0.5))
    label = torch.zeros(1, 64, 64, dtype=torch.long)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = model.loss(img, [SegDataSample(gt_sem_seg=PixelData(data=label))] * 2)
        scores = model.eval()(img)
    assert torch.isfinite(sum(losses.values()))
    assert torch.isfinite(scores).all()


@pytest.mark.skipif(TORCH < (2, 5), reason='older dynamo does not trace the networks whole')
@pytest.mark.parametrize('backbone', [VIT, DINOV2], ids=['vit', 'dinov2'])
def test_predictions_are_one_graph_with_the_masks_of_attention(backbone):
    torch._dynamo.reset()
    model, img = segmentor(backbone).train(), torch.randn(2, 3, 48, 64)
    model.decode_head.set_mask_probabilities((1.0, 1.0))

    def predict(img):
        return [tuple(stage) for stage in predict_with_queries(model.backbone, model.decode_head, img).stages]

    torch.testing.assert_close(torch.compile(predict, backend='eager', fullgraph=True)(img), predict(img))


def test_a_class_is_explained_by_the_query_that_is_most_sure_of_it():
    model, img = segmentor(), torch.randn(1, 3, 41, 67)
    scores, stages = _decode(model, img)
    torch.testing.assert_close(scores, model(img))
    assert stage_names(model) == ['behind block 2', 'behind block 3', 'behind block 4']
    logits, masks = model.extract_feat(img).stages[-1]
    best = logits[0].softmax(-1)[:, 2].argmax()
    full = nn.functional.interpolate(masks[:, best, None], size=(48, 72), mode='bilinear')[0, :, :41, :67]
    torch.testing.assert_close(stages[-1].masks[0, 2], full[0])
    torch.testing.assert_close(stages[-1].logits[0, 2], logits[0, best])


@pytest.mark.parametrize('backbone', [VIT, DINOV2, DINOV3], ids=['vit', 'dinov2', 'dinov3'])
@pytest.mark.parametrize('training', [True, False], ids=['training', 'evaluation'])
def test_every_module_with_parameters_is_called(backbone, training):
    model, called = segmentor(backbone).train(training), set()
    leaves = [name for name, module in model.named_modules() if not any(module.children()) and [*module.parameters()]]
    for name in leaves:
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: called.add(name))
    model(torch.randn(1, 3, 64, 64))
    assert [name for name in leaves if name not in called] == []


def test_activations_are_computed_again_with_the_same_gradients():
    img, grads = torch.randn(1, 3, 64, 64), []
    for with_cp in (False, True):
        model = segmentor(DINOV2 | {'with_cp': with_cp}).train()
        model.decode_head.set_mask_probabilities((1.0, 1.0))
        model(img).sum().backward()
        grads.append(model.backbone.net.blocks[3].attn.qkv.weight.grad)
    torch.testing.assert_close(*grads)


def test_masks_reach_the_attention_of_blocks_without_rotary_positions():
    model, img, outputs = segmentor(EVA | {'use_rot_pos_emb': False}), torch.randn(1, 3, 64, 64), []
    for masks in ((0.0, 0.0), (1.0, 1.0)):
        model.decode_head.set_mask_probabilities(masks)
        outputs.append(model(img))
    assert not torch.allclose(*outputs, atol=1e-4)


def test_a_label_map_becomes_a_region_for_each_class():
    label = torch.tensor([[0, 2, 255], [2, 2, 0]])
    found = segmentor().decode_head.regions(SegDataSample(gt_sem_seg=PixelData(data=label[None])))
    assert found.labels.tolist() == [0, 2]
    assert found.masks.tolist() == [[[1, 0, 0], [0, 0, 1]], [[0, 1, 0], [1, 1, 0]]]


@pytest.mark.parametrize(('fixed', 'expected'), [(True, [0, 4, 2, 4]), (False, [4, 2, 4, 0])])
def test_a_fixed_query_answers_for_its_class_although_others_cost_less(fixed, expected):
    head = segmentor(num_queries=4, fixed_matching=fixed).decode_head.train()
    label = torch.zeros(1, 16, 16, dtype=torch.long)
    label[..., 8:] = 2
    (region,) = [head.regions(SegDataSample(gt_sem_seg=PixelData(data=label)))]
    masks, logits = torch.full((4, 16, 16), -9.0), torch.zeros(4, 5)
    masks[3], masks[1] = (label[0] == 0) * 18.0 - 9, (label[0] == 2) * 18.0 - 9
    labels, _, targets, weights, *_ = head._get_targets_single(logits, masks, region, {})
    assert labels.tolist() == expected
    assert weights.tolist() == [float(value != 4) for value in expected]
    classes = [value for value in expected if value != 4]
    assert all(torch.equal(target.bool(), label[0] == value) for target, value in zip(targets, classes, strict=True))
    none = InstanceData(labels=torch.zeros(0, dtype=torch.long), masks=torch.zeros(0, 16, 16, dtype=torch.long))
    assert head._get_targets_single(logits, masks, none, {})[0].tolist() == [4] * 4


def labelled(*labels):
    return [SegDataSample(gt_sem_seg=PixelData(data=label[None])) for label in labels]


@pytest.mark.parametrize('value', [4, 9, -1])
def test_a_label_that_is_no_class_is_named(value):
    label = torch.zeros(16, 16, dtype=torch.long)
    label[3, 5], label[4] = value, 255
    message = rf'label values \[{value}\] are outside the 4 classes and are not ignore_index=255; check num_classes'
    with pytest.raises(ValueError, match=message):
        segmentor().train().loss(torch.randn(1, 3, 16, 16), labelled(label))


def test_masks_of_another_size_than_the_images_are_refused():
    with pytest.raises(ValueError, match=r'\(33, 64\) of labels or masks .* \(41, 67\): .* needs pad_mask=True'):
        detector(stuff=0).train().loss(torch.randn(1, 3, 41, 67), [sample_of((33, 64), [0])])


@pytest.mark.parametrize(
    'option',
    [
        {'num_upscale_blocks': 1},
        {'loss_weights': (4.0, 5.0, 5.0)},
        {'loss_weights': (2.0, 9.0, 5.0)},
        {'loss_weights': (2.0, 5.0, 9.0)},
        {'no_object_weight': 0.5},
        {'num_points': 32},
        {'oversample_ratio': 2.0},
        {'importance_sample_ratio': 0.25},
        {'num_queries': 6},
        {'num_blocks': 1},
        {'ignore_index': 3},
    ],
    ids=str,
)
def test_every_option_changes_the_losses(option):
    img = torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    label = torch.arange(4).repeat_interleave(12)[:, None].expand(48, 64)
    values = []
    for arguments in ({}, option):
        model = segmentor(**arguments).train()
        torch.manual_seed(0)
        values.append(sum(model.loss(img, labelled(label, label.flip(0))).values()).item())
    assert values[0] != pytest.approx(values[1], rel=1e-6)


def test_fixed_matching_needs_a_query_for_each_class_and_one_region_for_each():
    with pytest.raises(ValueError, match='num_queries=5 and num_classes=4'):
        segmentor(fixed_matching=True)
    with pytest.raises(ValueError, match='several objects'):
        MODELS.build({**HEAD, 'type': 'mmvit_ext.EoMTPanopticHead', 'num_things_classes': 5, 'fixed_matching': True})


@pytest.mark.parametrize('labels', [[0, 2], []], ids=['objects', 'nothing'])
def test_a_detector_trains_on_objects(labels):
    model = detector(stuff=0).train()
    losses = model.loss(torch.randn(1, 3, 41, 67), [sample_of((41, 67), labels)])
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)


def test_a_detector_trains_on_objects_and_stuff():
    model, sample = detector().train(), sample_of((48, 64), [1])
    sample.gt_sem_seg = PixelData(sem_seg=torch.full((1, 48, 64), 4))
    losses = model.loss(torch.randn(1, 3, 48, 64), [sample])
    assert torch.isfinite(sum(losses.values()))


def test_a_detector_predicts_objects_and_a_panoptic_map_of_the_image_s_size():
    test_cfg = {'panoptic_on': True, 'instance_on': True, 'max_per_image': 7, 'object_mask_thr': 0.1, 'iou_thr': 0.1}
    model = detector(**test_cfg).eval()
    nn.init.constant_(model.panoptic_head.class_embed.bias, 0.0)
    nn.init.constant_(model.panoptic_head.class_embed.bias[1], 9.0)
    sample = sample_of((41, 67), [])
    sample.set_metainfo({'ori_shape': (82, 134), 'batch_input_shape': (48, 72)})
    with torch.no_grad():
        (found,) = model.predict(torch.randn(1, 3, 48, 72), [sample])
    assert found.pred_panoptic_seg.sem_seg.shape == (1, 82, 134)
    assert found.pred_instances.masks.shape[1:] == (82, 134)
    assert found.pred_instances.labels.unique().tolist() == [1]


def test_backbones_that_take_no_queries_are_refused():
    with pytest.raises(ValueError, match='final_norm=True'):
        segmentor(VIT | {'final_norm': False})(torch.randn(1, 3, 64, 64))
    with pytest.raises(ValueError, match='num_blocks=4'):
        segmentor(num_blocks=4)(torch.randn(1, 3, 64, 64))
    with pytest.raises(ValueError, match='in_channels=48'):
        segmentor(in_channels=48)(torch.randn(1, 3, 64, 64))
    with pytest.raises(ValueError, match='at least two classes'):
        segmentor(num_classes=1)
    with pytest.raises(ValueError, match='at least one class'):
        MODELS.build({**HEAD, 'type': 'mmvit_ext.EoMTPanopticHead', 'num_things_classes': 0})
    shrinking = VIT | {'type': 'mmvit_ext.ShrunkViT', 'shrink_index': 2}
    with pytest.raises(ValueError, match='behind the layer that shrinks the grid, got block=2'):
        segmentor(shrinking)(torch.randn(1, 3, 64, 64))
    assert segmentor(shrinking | {'shrink_index': 1})(torch.randn(1, 3, 64, 64)).shape == (1, 4, 64, 64)


@pytest.mark.parametrize(
    ('backbone', 'message'),
    [
        (VIT | {'out_indices': 0}, r'the last layer among out_indices .*out_indices=\(0,\)'),
        (DINOV2 | {'out_indices': 0}, 'gives the normed output of its last block, got .*out_indices'),
        (DINOV2 | {'final_norm': 'none'}, "gives the normed output of its last block, got .*final_norm='none'"),
    ],
    ids=['vit', 'dinov2', 'dinov2 without its norm'],
)
def test_backbones_without_their_last_block_or_norm_are_refused(backbone, message):
    with pytest.raises(ValueError, match=message):
        segmentor(backbone)(torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize('kind', ['neck', 'auxiliary_head'])
def test_parts_that_would_never_run_are_refused(kind):
    part = {'type': 'mmseg.FCNHead', 'in_channels': 32, 'in_index': 0, 'channels': 8, 'num_classes': 4}
    part = {'type': 'mmseg.MultiLevelNeck', 'in_channels': [32], 'out_channels': 32} if kind == 'neck' else part
    head = {**HEAD, 'num_classes': 4}
    model = {'type': 'mmvit_ext.EoMT', 'backbone': VIT, 'decode_head': head, 'test_cfg': {'mode': 'whole'}}
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{kind}'"):
        MODELS.build(ConfigDict({**model, kind: part}))


def test_masks_are_annealed_block_by_block():
    hook = MaskAnnealingHook(power=1.0)
    assert hook.probabilities(0.0, 2) == [1.0, 1.0]
    assert hook.probabilities(0.375, 2) == [0.5, 1.0]
    assert hook.probabilities(0.5, 2) == [0.0, 1.0]
    assert hook.probabilities(0.75, 2) == [0.0, 0.0]
    assert MaskAnnealingHook(windows=[(0, 0.5)]).probabilities(0.25, 1) == [pytest.approx(0.5**0.9)]
    with pytest.raises(ValueError, match='windows'):
        MaskAnnealingHook(windows=[(0.5, 0.5)])


def test_a_run_sets_the_probabilities():
    model = segmentor()
    runner = SimpleNamespace(model=model, iter=30, max_iters=80)
    hook = MaskAnnealingHook(power=1.0)
    hook.before_train_iter(runner, 0)
    assert model.decode_head.attn_mask_probs.tolist() == [0.5, 1.0]
    hook.after_train(runner)
    assert model.decode_head.mask_probabilities == (0.0, 0.0)
    with pytest.raises(UserError, match='3 entries for 2 blocks'):
        MaskAnnealingHook(windows=[(0, 1)] * 3).before_train(runner)
    with pytest.raises(UserError, match='EoMTHead'):
        hook.before_train(SimpleNamespace(model=nn.Linear(1, 1)))


def test_learning_rates_of_heads_and_backbone_warm_up_one_after_the_other():
    wrapper = {'type': 'OptimWrapper', 'optimizer': {'type': 'AdamW', 'lr': 1.0, 'weight_decay': 0.05}}
    wrapper = LayerDecayConstructor(wrapper, {'decay_rate': 0.5})(segmentor())
    schedule = TwoStagePolyLR(wrapper.optimizer, end=20, warmup=(4, 6), power=1.0)
    scales = [group.get('lr_scale', 1) for group in wrapper.param_groups]
    assert min(scales) == 0.5**5
    assert max(scales) == 1
    rates = []
    for _ in range(21):
        rates.append([group['lr'] / scale for group, scale in zip(wrapper.param_groups, scales, strict=True)])
        wrapper.optimizer.step()
        schedule.step()
    heads = [step[scales.index(1)] for step in rates]
    backbone = [step[scales.index(0.5)] for step in rates]
    assert heads[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert backbone[:5] == pytest.approx([0, 0, 0, 0, 1 / 6])
    assert heads[12] == pytest.approx(0.5)
    assert backbone[15] == pytest.approx(0.5)
    assert heads[20] == pytest.approx(1 / 16)
    assert backbone[20] == pytest.approx(1 / 10)
    with pytest.raises(ValueError, match='above both warm-ups'):
        TwoStagePolyLR(wrapper.optimizer, end=10, warmup=(4, 6))


def authors_names(state_dict):
    """Our names as the authors of EoMT have them."""
    parts = {'query': 'q', 'class_embed': 'class_head', 'mask_embed': 'mask_head'}
    parts |= {
        f'upscale.{i}.{at}': f'upscale.{i}.{name}'
        for i in (0, 1)
        for at, name in ((0, 'conv1'), (2, 'conv2'), (3, 'norm'))
    }
    renamed = {}
    for name, value in state_dict.items():
        name = name.replace('backbone.net.', 'network.encoder.backbone.').replace('decode_head.', 'network.')
        for ours, theirs in parts.items():
            name = name.replace(f'network.{ours}.', f'network.{theirs}.')
        renamed[name] = value
    return renamed | {'network.encoder.pixel_mean': torch.zeros(1, 3, 1, 1), 'criterion.empty_weight': torch.ones(5)}


@pytest.mark.parametrize('backbone', [DINOV2, DINOV3], ids=['dinov2', 'dinov3'])
def test_names_of_the_authors_are_converted(backbone):
    state = segmentor(backbone).state_dict()
    converted = convert(authors_names(state), 'eomt')
    assert converted.keys() == state.keys()
    assert all(torch.equal(converted[name], value) for name, value in state.items())
    assert 'panoptic_head.query.weight' in convert(authors_names(state), 'eomt-detector')


def test_a_checkpoint_of_another_method_is_refused():
    state = authors_names(segmentor(DINOV2).state_dict())
    with pytest.raises(ValueError, match=r'unknown keys network\.decoder\.weight'):
        convert(state | {'network.decoder.weight': torch.zeros(1)}, 'eomt')
    del state['network.class_head.weight']
    with pytest.raises(ValueError, match=r'missing decode_head\.class_embed\.weight'):
        convert(state, 'eomt')


@pytest.mark.parametrize('style', ['timm', 'transformers'])
def test_differences_are_added_to_the_weights_of_dinov3(style):
    state = segmentor(DINOV3).state_dict()
    base = {name.removeprefix('backbone.net.'): torch.randn_like(v) for name, v in state.items() if 'backbone.' in name}
    stored = {f'backbone.net.{name}': state[f'backbone.net.{name}'] - value for name, value in base.items()}
    if style == 'transformers':
        base = transformers_names(base) | {'embeddings.mask_token': torch.zeros(1, 1, 32)}
    total = add_base(state | stored, base)
    assert total.keys() == state.keys()
    for name, value in state.items():
        torch.testing.assert_close(total[name], value)
    with pytest.raises(ValueError, match=r'missing norm\.bias'):
        add_base(state, {name: value for name, value in base.items() if name != 'norm.bias'})
    with pytest.raises(ValueError, match='another network'):
        add_base(state, base | {'norm.bias': torch.zeros(3)})


def transformers_names(state_dict):
    """Names of timm as transformers' DINOv3 has them."""
    renamed = {}
    for name, value in state_dict.items():
        block, _, part = name.removeprefix('blocks.').partition('.')
        front = f'model.layer.{block}.'
        if not name.startswith('blocks.'):
            name = name.replace('patch_embed.proj', 'patch_embeddings').replace('reg_token', 'register_tokens')
            renamed[name if name.startswith('norm.') else f'embeddings.{name}'] = value
        elif part == 'attn.qkv.weight':
            renamed |= {
                f'{front}attention.{one}_proj.weight': piece for one, piece in zip('qkv', value.chunk(3), strict=True)
            }
        else:
            for ours, theirs in (
                ('attn.q_bias', 'attention.q_proj.bias'), ('attn.v_bias', 'attention.v_proj.bias'),
                ('attn.proj', 'attention.o_proj'), ('mlp.fc1', 'mlp.up_proj'), ('mlp.fc2', 'mlp.down_proj'),
                ('gamma_1', 'layer_scale1.lambda1'), ('gamma_2', 'layer_scale2.lambda1'),
            ):  # fmt: skip
                part = part.replace(ours, theirs)
            renamed[front + part] = value
    return renamed
