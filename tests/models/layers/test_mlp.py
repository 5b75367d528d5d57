"""The MLP in pieces against the one written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmvit_ext.models.layers import mlp as module
from mmvit_ext.models.layers.linear import Linear, linear_backward
from mmvit_ext.models.layers.mlp import MLP, mlp, piece_rows, plain_mlp

ACTIVATIONS = {'GELU': F.gelu, 'SiLU': F.silu, 'ReLU': F.relu}
ROWS = 7 * 67


@pytest.fixture(params=[1, 13 * 11 * 4, 300 * 11 * 4, 2**30], ids=['single', 'few', 'many', 'whole'])
def piece_bytes(request, monkeypatch):
    monkeypatch.setattr(module, 'PIECE_BYTES', request.param)
    return request.param


def layers(dtype=torch.float32, inner=11):
    torch.manual_seed(0)
    maps = Linear(5, inner).to(dtype), Linear(inner, 3).to(dtype)
    for parameter in (parameter for layer in maps for parameter in layer.parameters()):
        nn.init.normal_(parameter)
    return maps


def layer_norm(dtype=torch.float32):
    torch.manual_seed(3)
    norm = nn.LayerNorm(5, eps=0.1).to(dtype)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def tokens(dtype=torch.float32):
    return torch.randn(7, 67, 5, generator=torch.Generator().manual_seed(1), dtype=dtype).requires_grad_()


@pytest.mark.parametrize(
    ('limit', 'expected'), [(1, 16), (32 * 44, 32), (300 * 44, 240), (ROWS * 44, 480), (2**30, 480)]
)
def test_pieces_are_about_equal_multiples_of_16_rows_near_the_limit(limit, expected, monkeypatch):
    monkeypatch.setattr(module, 'PIECE_BYTES', limit)
    assert piece_rows(torch.empty(ROWS, 5), 11) == expected


@pytest.mark.parametrize('norm', [None, layer_norm()], ids=['bare', 'normalised'])
@pytest.mark.parametrize('act', ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_pieces_give_the_numbers_and_gradients_of_the_whole(act, norm, piece_bytes):
    maps, x = layers(), tokens()
    parts = maps if norm is None else (*maps, norm)
    leaves = [x, *(parameter for layer in parts for parameter in layer.parameters())]
    outs = [compute(x, *maps, act, norm) for compute in (mlp, plain_mlp)]
    torch.testing.assert_close(*outs, atol=1e-5, rtol=1e-5)
    weights = torch.randn(outs[0].shape, generator=torch.Generator().manual_seed(2))
    ours, plain = (torch.autograd.grad((out * weights).sum(), leaves) for out in outs)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(mlp(x, *maps, act, norm), outs[1], atol=1e-5, rtol=1e-5)


def test_gradients_agree_with_finite_differences(piece_bytes):
    maps, norm, x = layers(torch.float64), layer_norm(torch.float64), tokens(torch.float64)
    network = nn.Sequential(*maps, norm)
    network.forward = lambda x: mlp(x, *maps, F.gelu, norm)
    names = [name for name, _ in network.named_parameters()]

    def run(x, *parameters):
        return torch.func.functional_call(network, dict(zip(names, parameters, strict=True)), (x,))

    leaves = (x[:2, :13].detach().requires_grad_(), *network.parameters())
    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)


@pytest.mark.parametrize('rows', [3, 331], ids=['by products', 'by convolutions'])
def test_gradients_of_a_linear_map_are_the_products_worked_out(rows):
    torch.manual_seed(0)
    x, grad, weight = torch.randn(rows, 5), torch.randn(rows, 3), torch.randn(3, 5)
    expected = (
        torch.einsum('rd,dc->rc', grad, weight),
        torch.einsum('rd,rc->dc', grad, x),
        torch.einsum('rd->d', grad),
    )
    for ours, plain in zip(linear_backward(grad, x, weight), expected, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-4)


def test_one_wide_tensor_is_kept_where_the_plain_form_keeps_two():
    maps, x = layers(inner=40), tokens()
    kept = {}
    for compute in (mlp, plain_mlp):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: (sizes.append(t.numel()), t)[1], lambda t: t
        ):
            compute(x, *maps, F.gelu, layer_norm())
        kept[compute] = [sum(size == width * ROWS for size in sizes) for width in (40, 5)]
    assert kept == {mlp: [1, 1], plain_mlp: [2, 2]}


@pytest.mark.parametrize('norm', [None, layer_norm()], ids=['bare', 'normalised'])
def test_a_first_map_that_is_not_kept_gives_the_same_gradients(norm, piece_bytes):
    maps, x = layers(), tokens()
    parts = maps if norm is None else (*maps, norm)
    leaves = [x, *(parameter for layer in parts for parameter in layer.parameters())]
    weights = torch.randn(7, 67, 3, generator=torch.Generator().manual_seed(2))
    results, kept = [], []
    for keep in (True, False):
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, keep=keep: (kept.append((keep, t.numel())), t)[1], lambda t: t
        ):
            out = mlp(x, *maps, F.gelu, norm, keep)
        results.append([out, *torch.autograd.grad((out * weights).sum(), leaves)])
    assert sum(size for keep, size in kept if keep) - sum(size for keep, size in kept if not keep) == 11 * ROWS
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-5)


def test_nothing_is_kept_without_gradients():
    maps, kept = layers(), []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda t: t):
        with torch.no_grad():
            mlp(tokens(), *maps, F.gelu)
        for layer in maps:
            layer.requires_grad_(False)
        out = mlp(tokens().detach(), *maps, F.gelu)
    assert not kept
    assert not out.requires_grad


def test_an_empty_batch_gives_an_empty_output():
    assert mlp(torch.empty(0, 67, 5), *layers(), F.gelu).shape == (0, 67, 3)


@pytest.mark.parametrize('norm', [None, layer_norm()], ids=['bare', 'normalised'])
def test_autocast_is_as_exact_as_for_the_plain_form_and_keeps_gradients_in_float32(norm):
    maps, x = layers(), tokens()
    leaves = (x, maps[0].weight, *([] if norm is None else [norm.weight]))
    exact = torch.autograd.grad(plain_mlp(x, *maps, F.gelu, norm).sum(), leaves)
    errors = []
    for compute in (mlp, plain_mlp):
        with torch.autocast('cpu', dtype=torch.bfloat16):
            out = compute(x, *maps, F.gelu, norm)
        rough = torch.autograd.grad(out.float().sum(), leaves)
        assert out.dtype == torch.bfloat16
        assert all(gradient.dtype == torch.float32 for gradient in rough)
        errors.append([torch.norm(a - b) for a, b in zip(exact, rough, strict=True)])
    assert all(ours < 1.2 * plain for ours, plain in zip(*errors, strict=True)), errors


@pytest.mark.parametrize('act_cfg', [{'type': 'GELU'}, {'type': 'ReLU', 'inplace': True}, {'type': 'PReLU'}], ids=str)
def test_the_module_computes_the_same_by_either_way(act_cfg):
    torch.manual_seed(0)
    module_, x = MLP(5, 11, act_cfg=act_cfg), tokens()
    out = module_(x)
    out.sum().backward()
    torch.testing.assert_close(out, module_.fc2(module_.act(module_.fc1(x))))
    assert all(parameter.grad is not None for parameter in module_.parameters())
    for norm in (layer_norm(), nn.LayerNorm(5, elementwise_affine=False), nn.Softmax(-1)):
        torch.testing.assert_close(module_(x, norm), module_(norm(x)), atol=1e-5, rtol=1e-5)


def test_dropout_acts_inside_and_on_the_output_in_training_only():
    torch.manual_seed(0)
    module_, x = MLP(5, 11, act_cfg={'type': 'GELU'}, drop=0.5), tokens()
    out = module_(x)
    assert (out == 0).float().mean() == pytest.approx(0.5, abs=0.1)
    kept = out != 0
    assert not torch.allclose(out[kept], 2 * module_.eval()(x)[kept])
    assert torch.equal(module_(x), module_(x))


def test_gradients_are_the_same_under_activation_checkpointing():
    maps, norm = layers(), layer_norm()
    gradients = []
    for wrapped in (False, True):
        x = tokens()
        out = checkpoint(mlp, x, *maps, F.gelu, norm, use_reentrant=False) if wrapped else mlp(x, *maps, F.gelu, norm)
        gradients.append(torch.autograd.grad(out.square().sum(), (x, maps[0].weight, norm.bias)))
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)
