"""The MLP of a transformer layer."""

import pytest
import torch
from torch import nn

from mmvit_ext.models.layers.mlp import MLP


@pytest.mark.parametrize('act_cfg', [{'type': 'GELU'}, {'type': 'ReLU', 'inplace': True}, {'type': 'PReLU'}], ids=str)
def test_it_is_two_linear_layers_around_an_activation(act_cfg):
    torch.manual_seed(0)
    mlp, x = MLP(5, 11, act_cfg=act_cfg), torch.randn(7, 67, 5)
    out = mlp(x)
    out.sum().backward()
    torch.testing.assert_close(out, mlp.fc2(mlp.act(mlp.fc1(x))))
    assert [type(layer) for layer in (mlp.fc1, mlp.fc2)] == [nn.Linear, nn.Linear]
    assert all(parameter.grad is not None for parameter in mlp.parameters())


def test_dropout_acts_inside_and_on_the_output_in_training_only():
    torch.manual_seed(0)
    mlp, x = MLP(5, 11, act_cfg={'type': 'GELU'}, drop=0.5), torch.randn(7, 67, 5)
    out = mlp(x)
    assert (out == 0).float().mean() == pytest.approx(0.5, abs=0.1)
    kept = out != 0
    assert not torch.allclose(out[kept], 2 * mlp.eval()(x)[kept])
    assert torch.equal(mlp(x), mlp(x))
