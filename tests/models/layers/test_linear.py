import pytest
import torch
import torch.nn.functional as F

from mmvit_ext.models.layers.linear import MIN_ROWS, Linear, linear


@pytest.mark.parametrize('shape', [(2, 331, 13), (MIN_ROWS, 13), (3, 13), (13,), (2, 5, 67, 13)], ids=str)
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
