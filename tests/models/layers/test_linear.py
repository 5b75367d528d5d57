import pytest
import torch
import torch.nn.functional as F

from mmvit_ext.models.layers.linear import MIN_ROWS, Linear, linear


@pytest.mark.parametrize(
    'shape', [(2, 331, 13), (MIN_ROWS, 13), (MIN_ROWS + 32, 13), (3, 13), (13,), (2, 5, 67, 13)], ids=str
)
@pytest.mark.parametrize('with_bias', [True, False])
def test_both_routes_give_values_and_gradients_of_torchs_linear(shape, with_bias):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(shape), torch.randn(7, 13), torch.randn(7) if with_bias else None
    results = []
    for function in (linear, F.linear):
        inputs = [t.clone().requires_grad_() for t in (x, weight, bias) if t is not None]
        out = function(*inputs)
        results.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_transposed_input_gives_the_same():
    x = torch.randn(2, 13, 331).transpose(1, 2)
    layer = Linear(13, 7)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))


def test_other_precisions_go_the_plain_way():
    x, layer = torch.randn(MIN_ROWS, 13, dtype=torch.float64), Linear(13, 7).double()
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize('rows', [16 * 17, 16 * 17 + 1, 16 * 18 - 1])
def test_weight_gradients_count_every_row_once(rows):
    """With ones, a weight's gradient is the number of rows."""
    x, weight, bias = torch.ones(rows, 13), torch.zeros(7, 13, requires_grad=True), torch.zeros(7, requires_grad=True)
    linear(x, weight, bias).sum().backward()
    assert torch.equal(weight.grad, torch.full((7, 13), float(rows)))
    assert torch.equal(bias.grad, torch.full((7,), float(rows)))


def test_an_output_may_be_changed_in_place():
    x, layer = torch.randn(MIN_ROWS + 1, 13), Linear(13, 7)
    layer(x).relu_().sum().backward()
    changed = layer.weight.grad.clone()
    layer.weight.grad = None
    F.linear(x, layer.weight, layer.bias).relu().sum().backward()
    torch.testing.assert_close(changed, layer.weight.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('rows', [16 * 17, 16 * 17 + 1])
def test_a_second_derivative_is_that_of_torchs_linear(rows):
    torch.manual_seed(0)
    x, weight = torch.randn(rows, 5), torch.randn(3, 5)
    results = []
    for function in (linear, F.linear):
        inputs = [t.clone().requires_grad_() for t in (x, weight)]
        (first,) = torch.autograd.grad(function(*inputs).pow(3).mean(), inputs[:1], create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), inputs))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_frozen_weight_gets_no_gradient_and_passes_one_on():
    x, layer = torch.randn(MIN_ROWS + 1, 13, requires_grad=True), Linear(13, 7).requires_grad_(False)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand_as(x))
