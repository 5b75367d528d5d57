import pytest
import torch

from mmvit_ext.models.layers.drop import DropPath


@pytest.mark.parametrize('traced', [False, True])
def test_what_stays_is_scaled_so_that_the_mean_is_kept(traced, monkeypatch):
    monkeypatch.setattr('mmvit_ext.models.layers.drop.is_traced', lambda: traced)
    torch.manual_seed(0)
    out = DropPath(0.25)(torch.ones(4000, 2, 3))
    assert set(out.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert (out == out[:, :1, :1]).all()  # an image as a whole
    assert out.mean().item() == pytest.approx(1, abs=0.03)


def test_the_scale_is_not_rounded_to_the_type_of_the_branch():
    # 1 / 0.99 in bfloat16 would be 1.0078, and a share drawn in bfloat16 0.9884 of 0.99.
    torch.manual_seed(0)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = DropPath(0.01)(torch.ones(2000, 1, dtype=torch.bfloat16))
    assert out.max().item() == pytest.approx(1 / 0.99, rel=1e-6)


@pytest.mark.parametrize('traced', [False, True])
def test_without_autocast_a_branch_keeps_its_type(traced, monkeypatch):
    monkeypatch.setattr('mmvit_ext.models.layers.drop.is_traced', lambda: traced)
    torch.manual_seed(0)
    out = DropPath(0.3)(torch.full((64, 1), 3.0, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16
    assert set(out.unique().tolist()) == {0.0, torch.tensor(3 / 0.7).bfloat16().item()}  # not 3 times a rounded scale


def test_nothing_is_dropped_in_evaluation_or_with_probability_0():
    x = torch.ones(2, 3)
    assert DropPath(0.5).eval()(x) is x
    assert DropPath(0.0)(x) is x


def test_the_gradient_is_the_scale():
    torch.manual_seed(1)
    x = torch.ones(6, 2, requires_grad=True)
    out = DropPath(0.5)(x)
    out.sum().backward()
    torch.testing.assert_close(x.grad, out.detach())
    assert 0 < x.grad.sum() < 24
