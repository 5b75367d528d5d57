"""Triton kernels: equal to their plain forms, compilable for a GPU, and taken only where they may be."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

from mmvit_ext.models.backbones import tnt
from mmvit_ext.models.decode_heads import atm_head
from mmvit_ext.models.kernels import are_plain, may_fuse

ROOT = Path(__file__).parents[3]


SIZES = {'WP': 64, 'BLOCK': 32, 'SUMS': 5, 'HEADS': 4, 'MP': 16, 'CP': 32, 'RP': 64, 'PP': 16, 'DP': 64}
LABELS, NUMBERS = ('label', 'classes', 'images'), ('ALPHA', 'eps1', 'eps2', 'scale')
INTEGERS = ('H', 'W', 'w', 'M', 'IGNORE', 'm', 'c', 'r', 'd', 'sh', 'sw', 'K', 'p')


def kind(name):
    if name in SIZES:
        return 'constexpr'
    if name in LABELS:
        return '*i64'
    return 'fp32' if name in NUMBERS else 'i32' if name in INTEGERS else '*fp32'


def test_values_and_gradients_are_those_of_the_plain_forms():
    pytest.importorskip('triton')
    if not hasattr(torch.compiler, 'is_compiling'):
        pytest.skip('the kernels are written for the Triton of newer versions of PyTorch')
    command = [sys.executable, '-m', 'tests.models.kernels.interpreted']
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'TRITON_INTERPRET': '1'}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ['masks', 'equal', 'words', 'equal', 'cells', 'equal']


@pytest.mark.parametrize(
    'name', ['mask_losses._sums', 'mask_losses._gradient', 'words._layer', 'cells._cells', 'cells._merge']
)
def test_every_kernel_compiles_for_a_gpu(name, tmp_path, monkeypatch):
    triton = pytest.importorskip('triton')
    compiler = pytest.importorskip('triton.backends.compiler')
    if not hasattr(compiler, 'GPUTarget'):
        pytest.skip('the kernels are written for the Triton of newer versions of PyTorch')
    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    file, _, function = name.partition('.')
    kernel = getattr(import_module(f'mmvit_ext.models.kernels.{file}'), function)
    fixed = {(index,): SIZES[name] for index, name in enumerate(kernel.arg_names) if name in SIZES}
    source = triton.compiler.ASTSource(kernel, {name: kind(name) for name in kernel.arg_names}, fixed)
    made = triton.compile(source, target=compiler.GPUTarget('cuda', 90, 32))  # no GPU is needed for it
    assert f'.entry {function}(' in made.asm['ptx']


def test_no_kernel_is_taken_on_a_cpu_or_without_being_asked_for(monkeypatch):
    class OnGPU:
        is_cuda = True

    assert not may_fuse(OnGPU())
    monkeypatch.setenv('MMVIT_UNMEASURED_KERNELS', '1')
    assert not may_fuse(torch.ones(1))
    assert may_fuse(OnGPU()) == bool(pytest.importorskip('triton'))


def make_layer(**replaced):
    rates = {'drop_rate': 0.0, 'attn_drop_rate': 0.0, 'drop_path_rate': 0.0}
    kinds = {'norm_cfg': {'type': 'LN'}, 'act_cfg': {'type': 'GELU'}}
    return tnt.TNTLayer(6, 2, **{'mlp_ratio': 2, 'qkv_bias': False, **rates, **kinds, **replaced})


def test_hooks_wrappers_parametrisations_and_dropout_keep_a_kernel_away():
    x = torch.ones(1, 4, 6)
    assert make_layer().is_fusable(x)
    assert not make_layer().is_fusable(torch.ones(1, 65, 6))
    assert not make_layer(drop_path_rate=0.1).is_fusable(x)
    assert make_layer(drop_path_rate=0.1).eval().is_fusable(x)
    assert not make_layer(act_cfg={'type': 'ReLU'}).is_fusable(x)
    assert not make_layer(with_se=True).is_fusable(x)

    class Adapter(nn.Linear):
        pass

    wrapped, hooked, changed = make_layer(), make_layer(), make_layer()
    wrapped.ffn.fc1 = Adapter(6, 12)
    hooked.attn.qkv.register_forward_hook(lambda *_: None)
    nn.utils.parametrize.register_parametrization(changed.attn.proj, 'weight', nn.Identity())
    assert not any(layer.is_fusable(x) for layer in (wrapped, hooked, changed))
    assert not are_plain(nn.Sequential(nn.Linear(2, 2)), nn.Linear)


def test_the_kernel_of_a_layer_gets_its_parameters_in_their_order(monkeypatch):
    words = pytest.importorskip('mmvit_ext.models.kernels.words')
    layer, x = make_layer(), torch.randn(3, 4, 6)
    expected = layer(x)
    monkeypatch.setattr(tnt, 'may_fuse', lambda x: True)
    monkeypatch.setattr(words, 'fused_layer', words.plain_layer)
    torch.testing.assert_close(layer(x), expected)


def test_keys_and_values_of_a_stage_are_those_of_its_layers_unless_somebody_listens(monkeypatch):
    stage, queries, tokens = atm_head.ATMStage(6, 8, 2, 3, 0.0), torch.randn(2, 5, 8), torch.randn(2, 7, 8)

    def run():
        stage.zero_grad()
        known = tokens.clone().requires_grad_()
        out, wanted = stage(queries, known)
        (out.sin().sum() + wanted[-1][1].sin().sum()).backward()
        return out, wanted[-1][1], known.grad, *(parameter.grad for parameter in stage.layers.parameters())

    expected = run()
    monkeypatch.setattr(atm_head, 'may_fuse', lambda x: True)
    assert all(isinstance(memory, tuple) for memory in stage.memories(tokens))
    torch.testing.assert_close(run(), expected)
    seen = []
    stage.layers[1].cross_attn.v.register_forward_hook(lambda *_: seen.append(1))
    torch.testing.assert_close(run(), expected)
    assert seen == [1]
    if hasattr(nn.Module, 'compile'):
        compiled = atm_head.ATMStage(6, 8, 2, 1, 0.0)
        compiled.layers[0].compile(backend='eager')
        assert compiled.memories(tokens) == [tokens]
