"""Blocks compiled one by one, with the eager backend: what is traced, how often, and that nothing else changes."""

import copy
from collections import Counter

import pytest
import torch
from torch import nn

from mmvit_ext.models.compiled import compile_blocks, repeated_blocks
from tests.models.test_backbone_contract import TORCH, flat, image
from tests.zoo import BACKBONES

pytestmark = pytest.mark.skipif(TORCH < (2, 5), reason='older dynamo does not trace the networks whole')
SETTINGS = ('recompile_limit', 'skip_nnmodule_hook_guards', 'suppress_errors')


@pytest.fixture(autouse=True)
def fresh_dynamo():
    before = {name: getattr(torch._dynamo.config, name) for name in SETTINGS}
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    for name, value in before.items():
        setattr(torch._dynamo.config, name, value)


class Graphs:
    """A backend that counts what it compiles."""

    def __init__(self):
        self.number = 0

    def __call__(self, graph, example_inputs):
        self.number += 1
        return graph.forward


ONE_OF_EACH = ['ViT', 'P2T', 'SPFormer', 'TNT', 'NesT']


@pytest.mark.parametrize('name', ['ViT', 'TNT'])
def test_twenty_sizes_compile_every_kind_of_block_at_most_once_more(name):
    row, graphs = BACKBONES[name], Graphs()
    model = row.make().eval()
    plain = copy.deepcopy(model)
    compile_blocks(model, backend=graphs)
    with torch.no_grad():
        model(image(row, (48, 64)))
        first = graphs.number
        assert 0 < first <= len(repeated_blocks(model))
        for step in range(20):
            img = image(row, (40 + 8 * step, 200 - 8 * step))
            ours = flat(model(img))
            if step == 7:
                for a, b in zip(ours, flat(plain(img)), strict=True):
                    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert graphs.number <= 2 * first


def test_a_block_for_fixed_sizes_is_compiled_for_two_and_runs_as_it_is_for_others():
    class Block(nn.Module):
        compiled_alone = compiled_for_fixed_sizes = True

        def forward(self, x):
            return 2 * x

    graphs, model = Graphs(), nn.Sequential(Block(), Block())
    compile_blocks(model, backend=graphs)
    for tokens in range(1, 21):
        x = torch.randn(2, tokens, 3)
        torch.testing.assert_close(model(x), model[1].forward(model[0].forward(x)))
    assert graphs.number == 2


def test_layers_of_different_drop_rates_share_a_form():
    row, graphs = BACKBONES['ViT'], Graphs()
    arch = {'embed_dims': 24, 'num_layers': 6, 'num_heads': 3, 'mlp_ratio': 2}
    model = row.make(arch=arch, drop_path_rate=0.3, out_indices=-1)
    compile_blocks(model, backend=graphs)
    model(image(row, (48, 64)))
    assert graphs.number == 2  # the first layer drops nothing


def test_names_copies_hooks_and_adapters_are_those_of_the_model():
    row = BACKBONES['ViT']
    model = row.make().eval()
    names, img = list(model.state_dict()), image(row, (48, 64))
    expected = flat(model(img))[-1]
    sentence = compile_blocks(model, backend='eager')
    assert sentence == 'torch.compile: 3 ViTLayer'
    assert (
        compile_blocks(model, backend='eager') == 'torch.compile: the model has no blocks that are compiled one by one'
    )
    assert list(model.state_dict()) == names
    torch.testing.assert_close(flat(model(img))[-1], expected, atol=1e-5, rtol=1e-5)
    assert copy.deepcopy(model).layers[0]._compiled_call_impl is None

    calls = Counter()
    linear = model.layers[1].ffn.layers[0][0]
    hook = linear.register_forward_hook(lambda *_: calls.update(['hook']))
    model(img)
    assert calls['hook'] == 1
    hook.remove()

    class Adapter(nn.Module):
        def __init__(self, wrapped):
            super().__init__()
            self.wrapped = wrapped

        def forward(self, x):
            return self.wrapped(x) * 0

    model.layers[1].ffn.layers[0][0] = Adapter(linear)
    assert not torch.allclose(flat(model(img))[-1], expected)


def test_gradients_and_checkpointing_are_those_of_the_model():
    row = BACKBONES['ViT']
    img, gradients = image(row, (48, 64)), []
    for compiled in (False, True):
        model = row.make(with_cp=True)
        if compiled:
            compile_blocks(model, backend='eager')
        sum(x.square().mean() for x in flat(model(img))).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_the_decoder_layers_of_a_segmentor_are_blocks_too():
    heads = pytest.importorskip('mmvit_ext.models.decode_heads')
    head = heads.ATMHead([20, 24], 12, num_classes=5, in_index=[0, 1], num_heads=3, num_layers=2)
    assert compile_blocks(head, backend='eager') == 'torch.compile: 4 ATMDecoderLayer'


def test_cuda_graphs_without_a_gpu_are_a_sentence():
    said = compile_blocks(BACKBONES['ViT'].make(), graphs=True, backend='eager')
    assert said == 'torch.compile: 3 ViTLayer; CUDA graphs need a GPU, and the model is on none'


@pytest.mark.parametrize('name', ONE_OF_EACH)
def test_tokens_lie_row_by_row_in_memory(name):
    """A norm that gets another layout copies its input, in every block."""
    row = BACKBONES[name]
    model = row.make(**({'with_cls_token': False} if name == 'ViT' else {}))
    seen = []
    for block in repeated_blocks(model):
        for path, norm in block.named_modules():
            if path.endswith(('norm1', 'norm2', 'ln1', 'ln2')):
                norm.register_forward_hook(lambda _, x, __: seen.append(x[0].is_contiguous()))
    model(image(row, (48, 64)))
    assert seen
    assert all(seen)


def test_only_the_last_call_says_whether_errors_are_passed_over():
    for fall_back in (True, False):
        compile_blocks(BACKBONES['ViT'].make(), backend='eager', fall_back=fall_back)
        assert torch._dynamo.config.suppress_errors == fall_back
