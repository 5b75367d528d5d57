import logging
from types import SimpleNamespace

import pytest
from torch import nn

from mmvit_ext.engine.hooks.compiled_blocks import CompiledBlocksHook
from mmvit_ext.errors import UserError
from tests.models.test_backbone_contract import TORCH
from tests.models.test_compiled import fresh_dynamo  # noqa: F401  a fixture for every test

pytestmark = pytest.mark.skipif(TORCH < (2, 5), reason='blocks are compiled from PyTorch 2.5 on')


class Block(nn.Linear):
    compiled_alone = True


def compiled(mode, monkeypatch, *, on_gpu=False, **cfg):
    """Whether a hook of this mode compiles the blocks of a model."""
    model = nn.Sequential(Block(2, 2))
    with monkeypatch.context() as patch:
        if on_gpu:
            patch.setattr(nn.Module, 'parameters', lambda self: iter([SimpleNamespace(is_cuda=True)]))
        CompiledBlocksHook(mode).before_train(SimpleNamespace(model=model, cfg=cfg, logger=logging.getLogger('test')))
    return model[0]._compiled_call_impl is not None


def test_blocks_are_compiled_on_a_gpu_unless_the_config_compiles_the_step(monkeypatch):
    assert compiled('auto', monkeypatch, on_gpu=True)
    assert not compiled('auto', monkeypatch, on_gpu=True, compile=True)
    assert not compiled('auto', monkeypatch)


def test_a_mode_that_is_asked_for_is_kept(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    assert compiled('on', monkeypatch)
    assert not compiled('off', monkeypatch, on_gpu=True)
    assert compiled('graphs', monkeypatch)
    assert 'CUDA graphs need a GPU, and the model is on none' in caplog.text
    with pytest.raises(UserError, match='mode must be one of auto, on, graphs, off, got'):
        CompiledBlocksHook('always')
