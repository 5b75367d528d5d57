"""Every trainable config exports with open sizes: one small model of each kind, and what the others consist of."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.inference.export import (
    SAME_DETECTIONS,
    TOLERANCE,
    TORCH,
    OnnxGraph,
    as_graph,
    export_model,
    image_channels,
    largest_error,
    write_exported,
)
from tests.config_tools import CONFIGS, EDGE, ROOT, config_named, load, scope_of, shrink_model

pytestmark = pytest.mark.skipif(TORCH < (2, 6), reason='sizes that follow from a trace are younger')

#: A config of each kind of backbone, neck and head, by the beginning of its name, and its channels.
EXPORTED = {
    'segvit_vit-ti16': 4,
    'segvit-shrunk_vit-ti16': 3,
    'segvit-shrunk_dinov2-s16_8xb2-160k': 3,
    'segvit_eva02-l16': 3,
    'segvit_swin-t': 3,
    'sem-fpn_tnt-s': 3,
    'setr-mla_tnt-s': 3,
    'setr-pup_tnt-s': 3,
    'setr-superpixel_spformer-mini': 3,
    'nest-mini': 1,
    'retinanet_p2t-mini': 3,
    'mask-rcnn_r18_fpn_1xb4-14e_nuclei': 3,
    'eomt_dinov2-reg-l16_8xb2-40k': 3,
    'linear_vit-s14': 3,
}
ONE_SIZE = 'segvit_beitv2-l16_8xb2-80k_coco'
"""A kind of which docs/export.md says that a graph holds for one size."""
ONNX_ONLY = ('mask-rcnn_r18_fpn_1xb4-14e_nuclei', 'eomt_dinov2-reg-l16_8xb2-40k')
"""Kinds of which docs/export.md says that a ``.pt2`` file holds for one size."""
QUICK = ('segvit_vit-ti16', 'mask-rcnn_r18_fpn_1xb4-14e_nuclei')
"""Exported also where ``-m 'not slow'`` leaves the others out."""
REFUSED = ('AdversarialModel',)
"""Kinds of models that docs/export.md says are not exported."""


def small(start: str, **backbone: object) -> torch.nn.Module:
    """The model of a config with few narrow layers, as many as it takes maps from, and random weights."""
    cfg = load(config_named(start))
    init_default_scope(scope_of(cfg))
    leave_few_maps(cfg.model)
    shrink_model(cfg.model)
    leave_few_operations(cfg.model)
    cfg.model.backbone.update(backbone)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    return model


def leave_few_maps(model: Config) -> None:
    """Two maps for heads that take any number of them: each layer takes its time to export."""
    head, necks = model.get('decode_head', {}), model.get('neck')
    kinds = ('mmvit_ext.ATMHead', 'SETRMLAHead', 'mmvit_ext.FPNHead')
    if head.get('type') in kinds and 'out_indices' in model.backbone:
        model.backbone.out_indices = model.backbone.out_indices[:2]
        for part in (head, *(necks if isinstance(necks, list) else [necks or {}])):
            if isinstance(part.get('in_channels'), list):
                part.in_channels = part.in_channels[:2]
            if part.get('type') == 'mmvit_ext.PlainPyramid':
                part.scales = (4, 2)
            for name, value in (('num_outs', 2), ('feature_strides', [4, 8])):
                if name in part:
                    part[name] = value
        head.in_index = [0, 1]


def leave_few_operations(model: Config) -> None:
    """No layers behind the last map, and of what is repeated once what is left."""
    part, head = model.backbone, model.get('decode_head', {})
    plain = part.type in ('mmvit_ext.ViT', 'mmvit_ext.ShrunkViT', 'mmvit_ext.TNT')
    if plain and model.type != 'mmvit_ext.EoMT':
        count = 1 if isinstance(part.get('out_indices', -1), int) else len(part.out_indices)
        part.update(out_indices=tuple(range(count)))
        (part.arch if part.type == 'mmvit_ext.TNT' else part).update(num_layers=count)
        if 'shrink_index' in part:
            part.shrink_index = 1
    elif part.type == 'mmvit_ext.P2T':
        part.pool_ratios = ((12, 15), (8,), (4,), (1,))
    elif part.type == 'mmvit_ext.NesT':
        part.arch = {name: values[:2] for name, values in part.arch.items()} | {'depths': (1, 1)}
        model.head.in_channels = part.arch['embed_dims'][-1]
    elif part.type == 'mmvit_ext.SPFormer':
        part.update(depths=(1,), sca_iterations=1)
    elif part.type == 'SwinTransformer':  # the second block of a stage shifts its windows
        part.update(depths=(2, 1), num_heads=(1, 2), strides=(4, 2), out_indices=(0, 1))
        head.in_channels = [part.embed_dims, 2 * part.embed_dims]
    if 'num_layers' in head:
        head.num_layers = 1
    if head.get('type') == 'SETRMLAHead':
        head.channels = 2 * head.mla_channels
    if 'rpn_head' in model or 'bbox_head' in model:  # two levels
        pyramid = model.neck.type == 'mmvit_ext.PlainPyramid'
        levels, strides = (dict(scales=(4, 2)), [4, 8]) if pyramid else (dict(start_level=2), [16, 32])
        model.neck.update(levels, num_outs=2)
        model['rpn_head' if 'rpn_head' in model else 'bbox_head'].anchor_generator.strides = strides
        for name in ('bbox_roi_extractor', 'mask_roi_extractor'):
            if 'roi_head' in model:
                model.roi_head[name].featmap_strides = strides


def images(model: torch.nn.Module, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape[0], image_channels(model), *shape[1:], generator=generator)


@pytest.mark.parametrize(
    'start', [pytest.param(start, marks=() if start in QUICK else pytest.mark.slow) for start in EXPORTED]
)
def test_a_model_of_each_kind_gives_at_other_sizes_what_it_gives_in_torch(start, tmp_path):
    pytest.importorskip('onnxruntime')
    model = small(start, in_channels=EXPORTED[start]) if EXPORTED[start] != 3 else small(start)
    assert image_channels(model) == EXPORTED[start]
    edges = (4 * EDGE, 5 * EDGE) if hasattr(model, 'rpn_head') or hasattr(model, 'bbox_head') else (EDGE, EDGE)
    program = export_model(model, edges, dynamic=True)
    write_exported(program, tmp_path / 'model.onnx')
    graphs, network = [OnnxGraph(tmp_path / 'model.onnx')], as_graph(model)
    if start not in ONNX_ONLY:
        graphs.append(program.module())
    for shape in ((1, 96, 128), (3, 75, 101)):
        img = images(model, *shape)
        with torch.no_grad():
            outputs = [network(img), *(graph(img) for graph in graphs)]
        expected, *found = ([out] if isinstance(out, torch.Tensor) else out for out in outputs)
        assert max(largest_error(out, expected, SAME_DETECTIONS) for out in found) <= TOLERANCE, shape


@pytest.mark.slow
def test_a_kind_whose_graph_holds_for_one_size_is_refused_as_dynamic_and_written_for_one(tmp_path):
    pytest.importorskip('onnxruntime')
    model = small(ONE_SIZE)
    with pytest.raises(UserError, match=r'holds for images of one size only .*leave --dynamic out'):
        write_exported(export_model(model, (EDGE, EDGE), dynamic=True), tmp_path / 'model.pt2', model)
    assert not list(tmp_path.iterdir())
    write_exported(export_model(model, (EDGE, EDGE)), tmp_path / 'model.onnx', model)
    assert (tmp_path / 'model.onnx').is_file()


def kinds(cfg: Config) -> set[str]:
    """What a model consists of: its own type and those of its parts, of timm's networks by their family."""
    model = cfg.model
    if 'generator' in model:
        return {model.type.rpartition('.')[2]}
    necks = model.get('neck') or []
    parts = [model.backbone, *(necks if isinstance(necks, list) else [necks])]
    parts += [model[name] for name in ('decode_head', 'head', 'bbox_head', 'rpn_head', 'roi_head') if model.get(name)]
    family = str(model.backbone.get('model', '')).partition('_')[0]
    return {*(part.type for part in parts), f'timm {family}'} if family else {part.type for part in parts}


def test_every_config_consists_of_what_exports_or_is_refused_in_the_docs():
    page = (ROOT / 'docs' / 'export.md').read_text(encoding='utf-8')
    exported = set(chain.from_iterable(kinds(load(config_named(start))) for start in (*EXPORTED, ONE_SIZE)))
    for path in CONFIGS:
        missing = kinds(load(path)) - exported
        missing = {kind.rpartition('.')[2] for kind in missing}
        assert missing <= set(REFUSED), f'add {path.stem} to EXPORTED, or refuse it in docs/export.md: {missing}'
        assert all(f'`{kind}`' in page for kind in missing)


def test_a_generator_is_refused():
    class AdversarialModel(torch.nn.Module):
        generator = None

    with pytest.raises(UserError, match='AdversarialModel cannot be exported: it makes images from noise'):
        as_graph(AdversarialModel())


@pytest.mark.parametrize('start', ['retinanet_p2t-mini', 'mask-rcnn_dinov2-b16'])
def test_a_detector_as_a_graph_detects_what_mmdet_detects(start):
    from mmdet.structures import DetDataSample

    model, (height, width) = small(start), (96, 160)
    img = images(model, 2, height, width)
    samples = [
        DetDataSample(metainfo=dict(img_shape=(height, width), ori_shape=(height, width), scale_factor=(1, 1)))
        for _ in img
    ]
    with torch.no_grad():
        boxes, scores, labels, *masks = as_graph(model)(img)
        results = [sample.pred_instances for sample in model.predict(img, samples, rescale=False)]
    for index, result in enumerate(results):
        count = len(result.scores)
        assert count > 5
        assert int((labels[index] >= 0).sum()) == count
        padded = [part[index : index + 1, :count] for part in (boxes, scores, labels)]
        expected = [part[None] for part in (result.bboxes, result.scores, result.labels)]
        assert largest_error(padded, expected) <= TOLERANCE
        if masks:
            heads = model.roi_head
            rois = torch.cat((torch.full((count, 1), float(index)), boxes[index, :count]), 1)
            with torch.no_grad():
                logits = heads._mask_forward(model.extract_feat(img), rois)['mask_preds']
            chosen = logits[torch.arange(count), labels[index, :count]].sigmoid()
            torch.testing.assert_close(masks[0][index, :count], chosen, atol=TOLERANCE, rtol=0)


def test_a_detector_that_works_otherwise_is_refused():
    model = small('retinanet_p2t-mini')
    model.bbox_head.test_cfg.nms.type = 'soft_nms'
    with pytest.raises(UserError, match='RetinaNet with RetinaHead cannot be exported: RetinaNet, Faster'):
        as_graph(model)


def test_what_suppression_keeps_is_what_a_slow_reference_keeps():
    from mmvit_ext.inference.detections import suppress

    generator = torch.Generator().manual_seed(0)
    corners = 40 * torch.rand(2, 30, 2, generator=generator)
    boxes = torch.cat((corners, corners + 5 + 20 * torch.rand(2, 30, 2, generator=generator)), -1)
    scores = torch.rand(2, 3, 30, generator=generator)
    kept = suppress(boxes, scores, 0.4, 0.2)
    for group in range(2):
        for category in range(3):
            left = {i for i in range(30) if scores[group, category, i] > 0.2}
            expected = torch.zeros(30)
            while left:
                best = max(left, key=lambda i: scores[group, category, i])
                expected[best] = scores[group, category, best]
                left = {i for i in left if i != best and overlap(boxes[group, i], boxes[group, best]) <= 0.4}
            torch.testing.assert_close(kept[group, category], expected, atol=0, rtol=0)


def overlap(one: torch.Tensor, other: torch.Tensor) -> float:
    edges = (torch.minimum(one[2:], other[2:]) - torch.maximum(one[:2], other[:2])).clamp(min=0)
    areas = [(box[2:] - box[:2]).prod() for box in (one, other)]
    return float(edges.prod() / (sum(areas) - edges.prod()))


def test_errors_are_relative_to_a_large_range_and_detections_have_no_order_among_equals():
    large = torch.tensor([[0.0, 1000.0]])
    assert largest_error([large + 0.05], [large]) == pytest.approx(5e-5, rel=1e-3)
    assert largest_error([large / 1000 + 0.05], [large / 1000]) == pytest.approx(0.05, rel=1e-3)
    boxes = torch.tensor([[[0.0, 0, 2, 2], [5, 5, 9, 9]]])
    parts = [boxes, torch.full((1, 2), 0.5), torch.tensor([[1, 1]])]
    assert largest_error([part.flip(1) for part in parts], parts) == 0
    assert largest_error([*parts[:2], torch.tensor([[1, 0]])], parts) > 0.5
    assert largest_error([*parts[:2], torch.tensor([[1, -1]])], parts) > 0.5
    assert largest_error([*parts[:2], torch.tensor([[1, -1]])], parts, 0.5) == 0


def test_openvino_gives_what_the_model_gives(tmp_path):
    openvino = pytest.importorskip('openvino')
    model = small('sem-fpn_p2t-mini')
    write_exported(export_model(model, (EDGE, EDGE), dynamic=True), tmp_path / 'model.onnx')
    compiled = openvino.compile_model(str(tmp_path / 'model.onnx'), 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    for shape in ((1, 64, 64), (2, 96, 75)):
        img = images(model, *shape)
        with torch.no_grad():
            expected = as_graph(model)(img)
        assert largest_error([torch.from_numpy(compiled(img.numpy())[0])], [expected]) <= TOLERANCE
