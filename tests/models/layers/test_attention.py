import pytest
import torch
import torch.nn.functional as F

from mmvit_ext.models.layers.attention import PackedAttention, SelfAttention, SplitAttention, multihead_attention


def plain(q, k, v, heads):
    """Attention of one head after the other, written out."""
    width = q.shape[-1] // heads
    parts = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        weights = (q[..., part] @ k[..., part].transpose(1, 2) / width**0.5).softmax(-1)
        parts.append(weights @ v[..., part])
    return torch.cat(parts, -1)


def test_attention_of_two_tokens_worked_out_by_hand():
    q = torch.tensor([[[1.0, 0.0]]])
    k = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    v = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    odds = torch.tensor(2 / 2**0.5).exp()
    expected = torch.stack([odds / (1 + odds), 1 / (1 + odds)])
    torch.testing.assert_close(multihead_attention(q, k, v, 1)[0, 0], expected)


def test_fused_attention_equals_the_written_out_one():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 5, 12), torch.randn(3, 7, 12), torch.randn(3, 7, 12)
    torch.testing.assert_close(multihead_attention(q, k, v, 3), plain(q, k, v, 3))


@pytest.mark.parametrize(
    ('queries', 'keys', 'bits'), [(5, 300, torch.float32), (300, 7, torch.float32), (300, 300, torch.bfloat16)]
)
@pytest.mark.parametrize('mask', [None, torch.bool, torch.bfloat16])
def test_few_tokens_are_trained_in_32_bit_on_a_cpu(monkeypatch, queries, keys, bits, mask):
    torch.manual_seed(0)
    seen, fused = [], F.scaled_dot_product_attention
    monkeypatch.setattr(F, 'scaled_dot_product_attention', lambda q, *a, **k: seen.append(q.dtype) or fused(q, *a, **k))
    q, k = torch.randn(2, queries, 12, dtype=torch.bfloat16), torch.randn(2, keys, 12, dtype=torch.bfloat16)
    allowed = None if mask is None else (torch.arange(keys) != 3).expand(2, 1, 1, keys)
    given = torch.where(allowed, 0.0, -torch.inf).to(mask) if mask is torch.bfloat16 else allowed
    with torch.autocast('cpu', torch.bfloat16):
        out = multihead_attention(q.requires_grad_(), k, k, 3, mask=given)
    assert seen == [bits]
    assert out.dtype == torch.bfloat16
    kept = k.float() if mask is None else k.float()[:, torch.arange(keys) != 3]
    torch.testing.assert_close(out.float(), plain(q.float(), kept, kept, 3), rtol=0.02, atol=0.02)
    assert torch.autograd.grad(out.sum(), q)[0].dtype == torch.bfloat16
    multihead_attention(q.detach(), k, k, 3, mask=given)
    assert seen[1] == torch.bfloat16


def test_dropped_attention_has_the_right_mean_and_share():
    torch.manual_seed(0)
    q, k = torch.zeros(1, 400, 8), torch.zeros(1, 100, 8)
    v = torch.eye(100)[None, :, :8].contiguous()  # one output channel shows one weight
    out = multihead_attention(q, k, v, 1, dropout=0.25)
    assert ((out == 0) | torch.isclose(out, torch.tensor(0.01 / 0.75), rtol=1e-4)).all()
    assert (out == 0).float().mean() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize('tokens', [1, 4, 16, 67])
@pytest.mark.parametrize('qkv_bias', [False, True])
def test_self_attention_and_gradients_are_those_of_the_softmax_written_out(tokens, qkv_bias):
    torch.manual_seed(0)
    attn, grad = SelfAttention(12, 3, qkv_bias=qkv_bias), torch.randn(5, tokens, 12)
    results = []
    for function in (attn, lambda x: attn.proj(plain(*attn.qkv(x).chunk(3, -1), 3))):
        x = torch.randn(5, tokens, 12, generator=torch.Generator().manual_seed(1)).requires_grad_()
        out = function(x)
        results.append([out, *torch.autograd.grad(out, [x, *attn.parameters()], grad)])
    for ours, written_out in zip(*results, strict=True):
        torch.testing.assert_close(ours, written_out, rtol=1e-4, atol=1e-5)


def test_equal_tokens_return_their_value_and_reordered_ones_reordered_outputs():
    torch.manual_seed(0)
    attn, order = SelfAttention(12, 3), torch.randperm(16)
    equal = torch.randn(5, 1, 12).expand(5, 16, 12)
    torch.testing.assert_close(attn(equal), attn.proj(attn.qkv(equal)[..., 24:]), rtol=1e-4, atol=1e-5)
    x = torch.randn(5, 16, 12)
    torch.testing.assert_close(attn(x[:, order]), attn(x)[:, order], rtol=1e-4, atol=1e-5)


def test_a_parametrisation_of_the_packed_projection_takes_effect():
    class Half(torch.nn.Module):
        def forward(self, weight):
            return weight / 2

    attn, x = PackedAttention(12, 3), torch.randn(2, 5, 12)
    before = attn(x)
    torch.nn.utils.parametrize.register_parametrization(attn, 'in_proj_weight', Half())
    assert not torch.allclose(attn(x), before)


def test_packed_attention_equals_torchs_on_the_same_weights():
    torch.manual_seed(0)
    ours, theirs = PackedAttention(12, 3), torch.nn.MultiheadAttention(12, 3, batch_first=True)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    query, memory = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    torch.testing.assert_close(ours(query), theirs(query, query, query)[0])
    torch.testing.assert_close(ours(query, memory), theirs(query, memory, memory)[0])


def test_similarity_is_the_mean_over_heads_of_the_scaled_products():
    torch.manual_seed(0)
    module = SplitAttention(12, 3)
    query, memory = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    out, similarity = module(query, memory, need_similarity=True)
    q, k, v = module.q(query), module.k(memory), module.v(memory)
    heads = [q[..., i : i + 4] @ k[..., i : i + 4].transpose(1, 2) / 2 for i in (0, 4, 8)]
    torch.testing.assert_close(similarity, sum(heads) / 3)
    torch.testing.assert_close(out, module.proj(plain(q, k, v, 3)))
    assert module(query, memory)[1] is None


def test_dropout_acts_in_training_only():
    module = PackedAttention(8, 2, dropout=0.5)
    x = torch.randn(1, 6, 8)
    assert torch.equal(module.eval()(x), module(x))
    assert not torch.equal(module.train()(x), module(x))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match='num_heads=5 and embed_dims=12'):
        PackedAttention(12, 5)
