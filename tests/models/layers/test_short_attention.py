"""Attention of many short sequences: values and gradients by either route."""

import pytest
import torch

from benchmarks.plain_tnt import plain_attention
from mmvit_ext.models.layers import short_attention as module
from mmvit_ext.models.layers.short_attention import SelfAttention, short_attention


def attention(channels=12, heads=3, **arguments):
    torch.manual_seed(0)
    return SelfAttention(channels, heads, **arguments)


@pytest.fixture
def short_calls(monkeypatch):
    """How often the short route is taken."""
    calls = []
    inner = module.short_attention
    monkeypatch.setattr(module, 'short_attention', lambda *arguments: calls.append(1) or inner(*arguments))
    return calls


@pytest.mark.parametrize('tokens', [1, 4, 7, 16, 61, 67])
@pytest.mark.parametrize('qkv_bias', [False, True])
def test_values_and_gradients_are_those_of_the_softmax_written_out(tokens, qkv_bias, short_calls):
    attn = attention(qkv_bias=qkv_bias)
    grad = torch.randn(5, tokens, 12)
    results = []
    for function in (attn, lambda x: plain_attention(attn, x)):
        x = torch.randn(5, tokens, 12, generator=torch.Generator().manual_seed(1)).requires_grad_()
        out = function(x)
        results.append([out, *torch.autograd.grad(out, [x, *attn.parameters()], grad)])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
    assert bool(short_calls) == (tokens in (16, 61))


@pytest.mark.parametrize('weights', [1, 3 * 7 * 7 * 2, 2**18])
@pytest.mark.parametrize('bias', [False, True])
def test_gradients_in_pieces_agree_with_finite_differences(weights, bias, monkeypatch):
    monkeypatch.setattr(module, 'PIECE_WEIGHTS', weights)
    torch.manual_seed(0)
    inputs = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((5, 7, 6), (18, 6))]
    offset = torch.randn(18, dtype=torch.float64, requires_grad=True) if bias else None
    assert torch.autograd.gradcheck(lambda *args: short_attention(*args, 3), (*inputs, offset))


def test_equal_tokens_return_their_value():
    weight = torch.randn(36, 12)
    x = torch.randn(5, 1, 12).expand(5, 16, 12).contiguous()
    torch.testing.assert_close(short_attention(x, weight, None, 3), x @ weight[24:].t())


def test_reordered_tokens_give_reordered_outputs():
    x, weight, order = torch.randn(5, 16, 12), torch.randn(36, 12), torch.randperm(16)
    torch.testing.assert_close(
        short_attention(x[:, order], weight, None, 3), short_attention(x, weight, None, 3)[:, order]
    )


def test_only_the_input_is_kept_for_the_backward_pass():
    x, weight = torch.randn(5, 16, 12, requires_grad=True), torch.randn(36, 12, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        short_attention(x, weight, None, 3)
    assert [tensor.data_ptr() for tensor in kept] == [x.data_ptr(), weight.data_ptr()]


@pytest.mark.parametrize('route', ['dropout', 'autocast', 'half'])
def test_what_the_short_route_does_not_compute_takes_the_other(route, short_calls):
    attn = attention(attn_drop=0.5 if route == 'dropout' else 0.0)
    x = torch.randn(5, 16, 12)
    if route == 'half':
        attn, x = attn.bfloat16(), x.bfloat16()
    with torch.autocast('cpu', dtype=torch.bfloat16, enabled=route == 'autocast'):
        attn(x)
    assert not short_calls
    if route == 'dropout':
        attn.eval()(x)
        assert short_calls
