"""What every decode head, with its loss, and every neck has to keep."""

import copy
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import torch
from torch import nn

pytest.importorskip('mmseg')

from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmvit_ext.inference.export import TORCH
from mmvit_ext.models.decode_heads import ATMHead, ShrunkATMHead, SuperpixelHead
from mmvit_ext.models.decode_heads.pixel_losses import FPNHead, SETRUPHead
from mmvit_ext.models.necks import PlainPyramid

SIZE = (44, 68)
CLASSES = 5


def random_maps(*shapes):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, *shape, generator=generator) for shape in shapes]


def pyramid():
    return random_maps((20, 11, 17), (24, 6, 9))


def equal_maps():
    return random_maps((20, 5, 7), (20, 5, 7))


def superpixels():
    return random_maps((12, 3, 5), (3, 9, 11, 17))


def samples():
    label = torch.randint(0, CLASSES, (2, *SIZE), generator=torch.Generator().manual_seed(2))
    label[0, :5] = 255
    return [SegDataSample(gt_sem_seg=PixelData(data=image[None])) for image in label]


class TrainedHead(nn.Module):
    """A head whose call is its loss, for what works on calls."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, *inputs):
        losses = self.head.loss(inputs, samples(), None)
        return sum(value for name, value in losses.items() if 'loss' in name)


class TrainedNeck(nn.Module):
    """A neck whose call is a number made of its levels."""

    def __init__(self, neck):
        super().__init__()
        self.neck = neck

    def forward(self, *inputs):
        return sum(level.square().mean() for level in self.neck(inputs))


@dataclass(frozen=True)
class Row:
    build: Callable[..., nn.Module]
    settings: dict
    inputs: Callable[[], list]

    def make(self, dropout=0.0):
        """The trained module, with random weights that leave no branch at zero."""
        torch.manual_seed(0)
        neck = self.build is PlainPyramid
        part = self.build(**self.settings, **({} if neck else {'num_classes': CLASSES, 'dropout_ratio': dropout}))
        with torch.no_grad():
            for parameter in part.parameters():
                parameter.normal_(std=0.3)
        return TrainedNeck(part) if neck else TrainedHead(part)

    def infer(self, model):
        """What the part gives in evaluation."""
        inputs = self.inputs()
        if self.build is PlainPyramid:
            return torch.cat([level.flatten() for level in model.neck(inputs)])
        return model.head.predict(inputs, [{'img_shape': SIZE}] * 2, None)


ATM = {'in_channels': [20, 24], 'channels': 12, 'in_index': [0, 1], 'num_heads': 3, 'num_layers': 2}
LAYER = {**ATM, 'in_channels': 24, 'in_index': 1, 'deep_supervision': 'layer'}
SHRUNK = {'in_channels': [20, 24], 'channels': 12, 'img_size': SIZE, 'query_stride': 4, 'num_heads': 3, 'num_layers': 2}
FPN = {'in_channels': [20, 24], 'channels': 12, 'in_index': [0, 1]}
SETR = {'in_channels': 24, 'channels': 12, 'in_index': 1, 'num_convs': 1, 'up_scale': 4, 'kernel_size': 1}
PYRAMID = {'in_channels': [20, 20], 'scales': [4, 0.5]}
ROWS = {
    'ATM': Row(ATMHead, ATM, pyramid),
    'ATM, layers supervised': Row(ATMHead, LAYER, pyramid),
    'ATM, top-down': Row(ATMHead, {**ATM, 'fuse_inputs': True}, pyramid),
    'ATM, cross entropy': Row(ATMHead, {**ATM, 'loss': 'ce'}, pyramid),
    'Shrunk': Row(ShrunkATMHead, SHRUNK, pyramid),
    'Shrunk, from tokens': Row(ShrunkATMHead, {**SHRUNK, 'query_start': 'tokens'}, pyramid),
    'superpixels': Row(SuperpixelHead, {'in_channels': 12}, superpixels),
    'superpixels, batch norm': Row(SuperpixelHead, {'in_channels': 12, 'norm_cfg': {'type': 'BN'}}, superpixels),
    'FPN': Row(FPNHead, {**FPN, 'feature_strides': [4, 8]}, pyramid),
    'SETR': Row(SETRUPHead, SETR, pyramid),
    'pyramid': Row(PlainPyramid, {**PYRAMID, 'out_channels': 6, 'num_outs': 3}, equal_maps),
    'pyramid of one map': Row(PlainPyramid, {'in_channels': 24, 'scales': [2, 1]}, pyramid),
}
rows = pytest.mark.parametrize('row', ROWS.values(), ids=ROWS)


class Changed(nn.Module):
    """A wrapper such as adapters and quantisation put around a layer."""

    def __init__(self, wrapped):
        super().__init__()
        self.wrapped = wrapped

    def forward(self, x):
        return 1 - self.wrapped(x)


@rows
@pytest.mark.parametrize('mode', ['train', 'eval', 'autocast', 'bfloat16'])
def test_every_leaf_module_runs(row, mode):
    """What is not called is not seen by hooks, adapters, profilers and sharding."""
    model = row.make(dropout=0.1).train(mode != 'eval')
    leaves = {name: module for name, module in model.named_modules() if not list(module.children())}
    silent = {name for name in leaves if mode != 'eval' or 'loss_decode' not in name}
    for name, module in leaves.items():
        module.register_forward_hook(lambda module, inputs, output, name=name: silent.discard(name))
    inputs = row.inputs()
    if mode == 'bfloat16':
        model, inputs = model.bfloat16(), [x.bfloat16() for x in inputs]
    with torch.autocast('cpu', dtype=torch.bfloat16) if mode == 'autocast' else nullcontext():
        result = row.infer(model) if mode == 'eval' else model(*inputs)
    assert not silent
    assert torch.isfinite(result).all()


@rows
def test_every_wrapped_layer_takes_effect(row):
    model = row.make().eval()
    before, loss = row.infer(model), model(*row.inputs())
    kinds = (nn.Linear, nn.Embedding, nn.LayerNorm, nn.BatchNorm2d, nn.Conv2d, nn.ConvTranspose2d)
    wrapped = 0
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, kinds):
                setattr(parent, name, Changed(layer))
                assert not torch.equal(row.infer(model), before), f'{name} of {type(parent).__name__}'
                assert model(*row.inputs()) != loss, f'{name} of {type(parent).__name__}'
                setattr(parent, name, layer)
                wrapped += 1
    assert wrapped == sum(isinstance(module, kinds) for module in model.modules()) > 0


@rows
@pytest.mark.skipif(torch.__version__.startswith('2.1.'), reason='its torch.func.grad knows no device of a tensor')
def test_functional_gradients_are_those_of_the_backward_pass(row):
    model, inputs = row.make().eval(), row.inputs()
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    gradients = torch.func.grad(lambda parameters: torch.func.functional_call(model, parameters, tuple(inputs)))(
        parameters
    )
    model(*inputs).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
        torch.testing.assert_close(gradients[name], parameter.grad, msg=name)


@rows
def test_gradients_reach_the_backbone_in_training(row):
    model, inputs = row.make().train(), [x.requires_grad_() for x in row.inputs()]
    model(*inputs).backward()
    used = inputs[1:] if len(inputs) > 1 and row.settings['in_channels'] == 24 else inputs
    for x in used:
        assert torch.isfinite(x.grad).all()
        assert x.grad.abs().sum() > 0


@rows
def test_copies_and_pickles_compute_the_same(row):
    model = row.make().eval()
    expected = row.infer(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(row.infer(other), expected)
        assert other.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize('name', ['FPN', 'SETR'])
def test_losses_and_accuracy_of_mmseg_s_heads_are_mmseg_s(name):
    row = ROWS[name]
    ours = row.make().head
    theirs = row.build.__mro__[2](**row.settings, num_classes=CLASSES, dropout_ratio=0.0)
    assert type(theirs).__module__.startswith('mmseg.')
    theirs.load_state_dict(ours.state_dict(), strict=True)
    expected, found = (head.loss(row.inputs(), samples(), None) for head in (theirs.train(), ours.train()))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(TORCH < (2, 5), reason='older dynamo does not trace the networks whole')
@rows
def test_what_a_head_computes_in_training_is_one_graph(row):
    torch._dynamo.reset()
    model, inputs, batch = row.make(), row.inputs(), samples()

    def step(*maps):
        return model(*maps) if isinstance(model, TrainedNeck) else model.head.loss(maps, batch, None)

    compiled = torch.compile(step, backend='eager', fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), step(*inputs), rtol=1e-4, atol=1e-5)
