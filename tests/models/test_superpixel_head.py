import pytest
import torch
import torch.nn.functional as F

pytest.importorskip('mmseg')

from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmvit_ext.inference.export import TORCH
from mmvit_ext.models.decode_heads.superpixel_head import SuperpixelHead, merged_association
from tests.models.superpixels.test_superpixel_grid import interpolate_slowly, neighbour_index

HEAD = {'type': 'mmvit_ext.SuperpixelHead', 'in_channels': 12, 'num_classes': 5}
BACKBONE = {
    'type': 'mmvit_ext.SPFormer',
    'arch': {'embed_dims': 12, 'depths': (1, 2), 'num_heads': 3, 'sca_heads': 2},
    'img_size': 32,
    'pixel_stride': 4,
    'out_indices': (0, 1, 2),
    'out_association': True,
}
INF = float('inf')


def make(**replaced):
    torch.manual_seed(0)
    head = SuperpixelHead(**{k: v for k, v in {**HEAD, 'dropout_ratio': 0.0, **replaced}.items() if k != 'type'})
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(std=0.5)
    return head.double()


def outputs(size=(11, 7), heads=3, channels=12, cell=4):
    """A superpixel map and a similarity whose last cells are cut, as the backbone gives them."""
    generator = torch.Generator().manual_seed(1)
    grid = tuple(-(-edge // cell) for edge in size)
    superpixels = torch.randn(2, channels, *grid, generator=generator, dtype=torch.float64)
    similarity = torch.randn(2, heads, 9, *(edge * cell for edge in grid), generator=generator, dtype=torch.float64)
    outside = (neighbour_index(grid, (cell, cell)) < 0).view(9, grid[0] * cell, grid[1] * cell)
    similarity = similarity.masked_fill(outside, -INF)[..., : size[0], : size[1]]
    return superpixels, similarity


def slow_head(head, superpixels, similarity, merge, cell=4):
    """Logits pixel by pixel: each looks its 9 neighbours up."""
    B, C, sh, sw = superpixels.shape
    tokens = F.layer_norm(superpixels.permute(0, 2, 3, 1), (C,), head.norm.weight, head.norm.bias, head.norm.eps)
    logits = tokens @ head.conv_seg.weight[:, :, 0, 0].T + head.conv_seg.bias  # (B, sh, sw, K)
    if merge == 'similarity':
        association = (similarity.sum(1) / similarity.shape[1] ** 0.5).softmax(1)
    else:
        association = sum(head.softmax(1) for head in similarity.unbind(1)) / similarity.shape[1]
    h, w = association.shape[-2:]
    out = logits.new_zeros(B, logits.shape[-1], h, w)
    for y in range(h):
        for x in range(w):
            for n in range(9):
                row, column = y // cell + n // 3 - 1, x // cell + n % 3 - 1
                if 0 <= row < sh and 0 <= column < sw:
                    out[:, :, y, x] += association[:, n, y, x, None] * logits[:, row, column]
    return out


@pytest.mark.parametrize('merge', ['similarity', 'average'])
@pytest.mark.parametrize('size', [(11, 7), (3, 4), (8, 13)], ids=str)
def test_logits_are_those_of_the_neighbours_looked_up_one_by_one(merge, size):
    head, inputs = make(merge=merge), outputs(size)
    ours, slow = head(inputs), slow_head(head, *inputs, merge)
    assert ours.shape == (2, 5, *size)
    torch.testing.assert_close(ours, slow)


@pytest.mark.parametrize('merge', ['similarity', 'average'])
def test_finer_lifting_interpolates_each_superpixels_similarity(merge):
    head, (superpixels, similarity) = make(merge=merge, lift_stride=2), outputs((11, 7))
    ours = head((superpixels, similarity))
    grid = superpixels.shape[2:]
    whole = F.pad(similarity, (0, 1, 0, 1), value=-INF)  # what was cut does not exist
    if merge == 'similarity':
        whole = whole.sum(1, keepdim=True) / 3**0.5
    fine = interpolate_slowly_with_missing(whole, grid, (11, 7))
    slow = slow_head(head, superpixels, fine, merge, cell=8)
    assert ours.shape == (2, 5, 22, 14)
    torch.testing.assert_close(ours, slow)


def interpolate_slowly_with_missing(whole, grid, size):
    """The slow reference on the pixels that exist; those that were cut have similarity -inf and no weight."""
    h, w = whole.shape[-2:]
    filled = whole.clone()
    # The nearest pixel inside stands for one that was cut: linear weights without it, renormalised, are the same.
    for y in range(h):
        for x in range(w):
            if y >= size[0] or x >= size[1]:
                filled[..., y, x] = filled[..., min(y, size[0] - 1), min(x, size[1] - 1)]
    return interpolate_slowly(filled, grid, (4, 4), 2)[..., : 2 * size[0], : 2 * size[1]]


def test_merging_before_the_softmax_is_the_association_of_one_wide_head():
    _, similarity = outputs((8, 12))
    association = merged_association(similarity, (2, 3), 4)
    expected = (similarity[:, 0] + similarity[:, 1] + similarity[:, 2]).div(3**0.5).softmax(1)
    torch.testing.assert_close(association[:, 0], expected)
    torch.testing.assert_close(association.sum(2), torch.ones_like(association[:, :, 0]))


def test_a_certain_association_repeats_the_logits_of_the_own_cell():
    superpixels, similarity = outputs((8, 12))
    similarity = torch.where(similarity == -INF, similarity, 0.0)
    similarity[:, :, 4] = 100.0
    head = make()
    expected = head.classify(superpixels).repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(head((superpixels, similarity)), expected)
    torch.testing.assert_close(
        make(lift_stride=1)((superpixels, similarity)), expected.repeat_interleave(4, 2).repeat_interleave(4, 3)
    )


@pytest.mark.parametrize(
    'option',
    [
        {'merge': 'average'},
        {'lift_stride': 2},
        {'in_index': 0},
        {'association_index': 2},
        {'dropout_ratio': 0.5},
        {'norm_cfg': {'type': 'LN', 'eps': 0.5}},
        {'norm_cfg': {'type': 'BN'}},
    ],
    ids=str,
)
def test_every_option_changes_the_logits(option):
    superpixels, similarity = outputs()
    inputs = (superpixels.flip(1), superpixels, similarity * 0.5, similarity)
    results = []
    for arguments in ({}, option):
        torch.manual_seed(0)
        results.append(make(**{'in_index': 1, **arguments}).train()(inputs))
    assert results[0].shape != results[1].shape or not torch.allclose(*results)


def test_cell_and_stride_of_another_backbone_are_taken():
    superpixels, similarity = outputs((7, 9), cell=2)
    assert make(cell_size=2, pixel_stride=8, lift_stride=4)((superpixels, similarity)).shape == (2, 5, 14, 18)


def samples(label):
    return [SegDataSample(gt_sem_seg=PixelData(data=image[None])) for image in label]


@pytest.mark.parametrize('lift_stride', [4, 2])
def test_loss_trains_head_and_association(lift_stride):
    superpixels, similarity = outputs((11, 7))
    superpixels.requires_grad_()
    similarity.requires_grad_()
    head = make(lift_stride=lift_stride).train()
    losses = head.loss((superpixels, similarity), samples(torch.randint(0, 5, (2, 44, 28))), None)
    losses['loss_ce'].backward()
    assert set(losses) == {'loss_ce', 'acc_seg'}
    for name, parameter in head.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    assert torch.isfinite(similarity.grad).all()
    assert similarity.grad.abs().sum() > 0
    assert superpixels.grad.abs().sum() > 0


def test_bfloat16_autocast_stays_close_and_has_no_nan():
    head, inputs = make(lift_stride=2).float().eval(), [x.float() for x in outputs((11, 7))]
    exact = head(inputs)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        rough = head([inputs[0], inputs[1].bfloat16()])
    assert torch.isfinite(rough).all()
    assert torch.norm(exact - rough) < 0.05 * torch.norm(exact)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'channels': 6}, 'in_channels=12, or left out, got 6'),
        ({'merge': 'max'}, "merge must be one of .*'max'"),
        ({'lift_stride': 3}, 'must divide pixel_stride=4, got 3'),
        ({'lift_stride': 0}, 'must divide pixel_stride=4, got 0'),
        ({'in_index': [0, 1]}, r'one output of the backbone, got \[0, 1\]'),
    ],
)
def test_contradicting_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_a_backbone_without_association_is_named_with_the_remedy():
    superpixels, similarity = outputs()
    with pytest.raises(ValueError, match=r'got \(2, 12, 3, 2\); build SPFormer with out_association=True'):
        make()((superpixels, superpixels))
    with pytest.raises(ValueError, match=r'11x7 with cell_size=2 goes with 6x4 superpixels.*\(2, 12, 3, 2\)'):
        make(cell_size=2)((superpixels, similarity))


def segmentor(head, test_cfg=None, **backbone):
    torch.manual_seed(0)
    model = MODELS.build(
        {
            'type': 'mmseg.EncoderDecoder',
            'backbone': {**BACKBONE, **backbone},
            'decode_head': head,
            'test_cfg': ConfigDict(test_cfg or {'mode': 'whole'}),
        }
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


@pytest.mark.parametrize('mode', ['whole', 'slide'])
@pytest.mark.parametrize('size', [(41, 67), (64, 64), (90, 50)], ids=str)
def test_a_segmentor_predicts_every_pixel_in_both_modes(mode, size):
    test_cfg = {'mode': mode} | ({'crop_size': (32, 32), 'stride': (20, 20)} if mode == 'slide' else {})
    model = segmentor({**HEAD, 'lift_stride': 2}, test_cfg).eval()
    meta = {'img_shape': size, 'ori_shape': size, 'pad_shape': size, 'padding_size': [0, 0, 0, 0]}
    with torch.no_grad():
        (result,) = model.predict(torch.randn(1, 3, *size), [SegDataSample(metainfo=meta)])
    assert result.pred_sem_seg.data.shape == (1, *size)
    assert result.seg_logits.data.shape == (5, *size)
    assert torch.isfinite(result.seg_logits.data).all()


def test_test_time_flips_are_undone():
    model = segmentor(HEAD).eval()
    img = torch.randn(1, 3, 64, 64)

    def predict(img, **flip):
        meta = {'img_shape': (64, 64), 'ori_shape': (64, 64), 'pad_shape': (64, 64), 'padding_size': [0, 0, 0, 0]}
        with torch.no_grad():
            return model.predict(img, [SegDataSample(metainfo={**meta, **flip})])[0].seg_logits.data

    logits = model.encode_decode(img.flip(3), [{'img_shape': (64, 64)}])[0].flip(2)
    torch.testing.assert_close(predict(img.flip(3), flip=True, flip_direction='horizontal'), logits)


OTHER_HEADS = {
    'FPN': {'type': 'mmseg.FPNHead', 'in_channels': [12, 12, 12], 'in_index': [0, 1, 2], 'feature_strides': [4, 8, 16]},
    'SETR-PUP': {
        'type': 'mmseg.SETRUPHead',
        'in_channels': 12,
        'in_index': 2,
        'num_convs': 2,
        'up_scale': 2,
        'kernel_size': 3,
    },
    'SETR-naive': {
        'type': 'mmseg.SETRUPHead',
        'in_channels': 12,
        'in_index': 2,
        'num_convs': 1,
        'up_scale': 4,
        'kernel_size': 1,
    },
    'ATM': {'type': 'mmvit_ext.ATMHead', 'in_channels': [12, 12], 'in_index': [1, 2], 'num_heads': 3, 'num_layers': 1},
}


@pytest.mark.parametrize('out_association', [True, False])
@pytest.mark.parametrize('name', OTHER_HEADS)
def test_other_heads_train_and_predict_on_the_same_backbone(name, out_association):
    model = segmentor({**OTHER_HEADS[name], 'channels': 12, 'num_classes': 5}, out_association=out_association)
    img = torch.randn(2, 3, 48, 64)
    losses = model.train().loss(img, samples(torch.randint(0, 5, (2, 48, 64))))
    total = sum(value for key, value in losses.items() if 'loss' in key)
    total.backward()
    assert torch.isfinite(total)
    assert model.backbone.stem[0].weight.grad.abs().sum() > 0
    with torch.no_grad():
        assert model.eval().encode_decode(img, [{'img_shape': (48, 64)}] * 2).shape == (2, 5, 48, 64)


def test_a_superpixel_head_and_an_auxiliary_head_share_the_outputs():
    model = segmentor({**HEAD, 'init_cfg': None})
    auxiliary = {'type': 'mmseg.FCNHead', 'in_channels': 12, 'channels': 12, 'in_index': 1, 'num_classes': 5}
    model._init_auxiliary_head({**auxiliary, 'num_convs': 1})
    losses = model.train().loss(torch.randn(2, 3, 48, 64), samples(torch.randint(0, 5, (2, 48, 64))))
    assert {'decode.loss_ce', 'aux.loss_ce'} <= set(losses)


def test_compiled_segmentor_trains_like_the_eager_one():
    torch._dynamo.reset()
    model = segmentor(HEAD, depths=(1,), sca_iterations=1, out_indices=-1)
    model.decode_head.dropout = None
    model.train()
    img = torch.randn(2, 3, 27, 37)

    def step(img):
        return model.decode_head(model.backbone(img)).square().mean()

    results = []
    for run in (step, torch.compile(step, backend='aot_eager', fullgraph=TORCH >= (2, 5))):
        model.zero_grad()
        loss = run(img)
        loss.backward()
        results.append((loss.detach(), [parameter.grad.clone() for parameter in model.parameters()]))
    torch.testing.assert_close(results[1][0], results[0][0])
    for a, b in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
