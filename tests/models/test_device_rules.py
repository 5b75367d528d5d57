"""Devices and types on a GPU, shown without one: fake tensors know both and compute nothing."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mmvit_ext.models.layers import attention
from tests.zoo import BACKBONES

NORMS = {'native_layer_norm': (0, 2, 3), 'native_group_norm': (0, 1, 2)}
"""Kernels of a GPU that refuse a norm's input, weight and bias (their places) of different types."""
PRECISIONS = {'float32': None, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


class _EqualTypes(TorchDispatchMode):
    """Refuses what a CPU computes with mixed types and a GPU does not; fake tensors are as lenient as a CPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        places = NORMS.get(func.overloadpacket.__name__, ())
        found = {args[place].dtype for place in places if place < len(args) and isinstance(args[place], torch.Tensor)}
        assert len(found) <= 1, f'{func} of {found}'
        return func(*args, **(kwargs or {}))


@contextmanager
def autocast_of_a_gpu(dtype: torch.dtype | None) -> Iterator[None]:
    """``torch.autocast('cuda')``, which refuses to be on where there is no GPU."""
    with torch.autocast('cuda', dtype=dtype or torch.float16, enabled=False):  # which restores what is changed here
        if dtype is not None:
            torch.set_autocast_enabled('cuda', True)
            torch.set_autocast_dtype('cuda', dtype)
        yield


@contextmanager
def on_a_gpu(dtype: torch.dtype | None = None) -> Iterator[None]:
    """Fake tensors of the device cuda, autocast to a type, and no mixed types where its kernels take none."""
    with FakeTensorMode() as mode:
        # What is made without a device is made on the CPU, as it would be, and refused beside the others.
        mode.allow_non_fake_inputs = False
        with autocast_of_a_gpu(dtype), _EqualTypes():
            yield


needs_fake_gpu = pytest.mark.skipif(
    not hasattr(torch, 'get_autocast_dtype'), reason='this PyTorch sets the autocast of a GPU where there is one only'
)


def put_on_gpu(module: nn.Module) -> nn.Module:
    """A module with its parameters and buffers replaced by fake ones of the device cuda."""
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                fake = torch.empty(parameter.shape, dtype=parameter.dtype, device='cuda')
                part._parameters[name] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device='cuda')
    return module


def tensors(found: Any) -> list[torch.Tensor]:
    if isinstance(found, torch.Tensor):
        return [found]
    values = found.values() if isinstance(found, dict) else found
    return [tensor for value in values for tensor in tensors(value)]


@needs_fake_gpu
@pytest.mark.parametrize('precision', ['float32', 'bfloat16'])
@pytest.mark.parametrize('row', BACKBONES.values(), ids=BACKBONES)
def test_backbones_compute_on_a_gpu(row: Any, precision: str) -> None:
    network = row.make()
    with on_a_gpu(PRECISIONS[precision]):
        maps = tensors(put_on_gpu(network).train(precision != 'float32')(torch.empty(2, 3, 41, 67, device='cuda')))
        assert maps
        assert {x.device.type for x in maps} == {'cuda'}


@needs_fake_gpu
def test_what_a_gpu_refuses_is_seen() -> None:
    norm, linear = nn.LayerNorm(4), nn.Linear(4, 4)
    with on_a_gpu(torch.bfloat16):
        x = torch.empty(2, 4, device='cuda')
        half = put_on_gpu(linear)(x)
        assert half.dtype == torch.bfloat16
        assert put_on_gpu(norm)(half).dtype == torch.float32
        with autocast_of_a_gpu(None), pytest.raises(AssertionError, match='native_layer_norm'):
            norm(half)
        with pytest.raises(RuntimeError, match='two different devices'):
            x + torch.zeros(4)


@needs_fake_gpu
def test_tnt_without_positions_of_its_words_computes_in_half_precision() -> None:
    """Its words stay in the type that the convolution gives, which a norm's weights are not of."""
    network = BACKBONES['TNT'].make(with_word_pos=False)
    with on_a_gpu(torch.bfloat16):
        assert tensors(put_on_gpu(network)(torch.empty(2, 3, 48, 64, device='cuda')))


@needs_fake_gpu
@pytest.mark.parametrize('precision', PRECISIONS)
@pytest.mark.parametrize(
    'name', ['ATM', 'ATM, layers supervised', 'ATM, top-down', 'ATM, cross entropy', 'Shrunk', 'superpixels']
)
def test_heads_and_losses_compute_on_a_gpu(name: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip('mmseg')
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    from tests.models.test_head_contract import CLASSES, ROWS, SIZE

    monkeypatch.setattr(torch.Tensor, 'pin_memory', lambda self: self)  # fake tensors cannot
    row = ROWS[name]
    head = row.make(dropout=0.1).head
    shapes = [x.shape for x in row.inputs()]
    with on_a_gpu(PRECISIONS[precision]):
        put_on_gpu(head)
        maps = [torch.empty(shape, device='cuda') for shape in shapes]
        labels = [torch.empty(1, *SIZE, dtype=torch.int64, device='cuda') for _ in range(2)]
        meta = {'classes_present': [0, CLASSES - 1]}
        samples = [SegDataSample(gt_sem_seg=PixelData(data=label), metainfo=meta) for label in labels]
        losses = head.loss(maps, samples, None)
        assert {loss.device.type for loss in losses.values()} == {'cuda'}
        assert all(loss.dtype == torch.float32 for key, loss in losses.items() if key.startswith('loss'))
        with torch.no_grad():
            assert head.eval().predict(maps, [{'img_shape': SIZE}] * 2, None).device.type == 'cuda'


@needs_fake_gpu
@pytest.mark.parametrize('precision', PRECISIONS)
def test_eomt_computes_on_a_gpu(precision: str) -> None:
    pytest.importorskip('mmseg')
    pytest.importorskip('mmdet')
    from tests.models.test_eomt import segmentor

    model = segmentor()
    with on_a_gpu(PRECISIONS[precision]):
        found = put_on_gpu(model)(torch.empty(2, 3, 48, 64, device='cuda'), mode='tensor')
        assert {x.device.type for x in tensors(found)} == {'cuda'}


@needs_fake_gpu
def test_a_neck_and_the_networks_of_the_generator_compute_on_a_gpu() -> None:
    from mmvit_ext.models.generators.sagan import ConvDiscriminator, ConvGenerator
    from mmvit_ext.models.necks import PlainPyramid

    neck = PlainPyramid([20, 20], scales=[4, 0.5], out_channels=6, num_outs=3)
    generator = ConvGenerator((16, 8), noise_dims=6, attention_level=0)
    discriminator = ConvDiscriminator((8, 16), attention_level=0)
    with on_a_gpu(torch.bfloat16):
        for network in (neck, generator, discriminator):
            put_on_gpu(network)
        assert len(neck([torch.empty(2, 20, 5, 7, device='cuda')] * 2)) == 3
        images = generator(torch.empty(2, 6, device='cuda'))
        assert discriminator(images).device.type == 'cuda'


@pytest.mark.parametrize('precision', ['bfloat16', 'float16'])
def test_heads_train_in_half_precision(precision: str) -> None:
    """On a CPU, with numbers: losses close to those in float32, and finite gradients of every parameter."""
    pytest.importorskip('mmseg')
    from tests.models.test_head_contract import ROWS

    dtype = PRECISIONS[precision]
    if precision == 'float16' and not hasattr(torch, 'get_autocast_dtype'):
        pytest.skip('no float16 autocast on the CPU of this PyTorch')
    for name, row in ROWS.items():
        full, half = [], []
        for losses, context in ((full, nullcontext()), (half, torch.autocast('cpu', dtype=dtype))):
            model = row.make().train()
            with context:
                loss = model(*row.inputs())
            loss.backward()
            losses.append(loss.item())
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            assert gradients
            assert all(torch.isfinite(gradient).all() for gradient in gradients), name
        assert half[0] == pytest.approx(full[0], rel=0.1), name


def test_masks_add_up_in_float32_under_autocast() -> None:
    pytest.importorskip('mmseg')
    from tests.models.test_head_contract import ROWS

    row = ROWS['ATM']
    head = row.make().head
    with torch.autocast('cpu', dtype=torch.bfloat16):
        outputs = head.decode(row.inputs())
    assert {output.masks.dtype for output in outputs} == {torch.float32}


def test_more_sequences_than_a_grid_has_room_for_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (torch.randn(7, 2, 5, 4) for _ in range(3))
    mask = torch.rand(7, 1, 1, 5) > 0.2
    mask[..., 0] = True
    whole = [attention._fused_attention(q, k, v, given, 0.0) for given in (None, mask, mask[:1])]
    calls = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def counted(q: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(len(q))
        return fused(q, *args, **kwargs)

    class OnGPU(torch.Tensor):
        device = torch.device('meta')

    monkeypatch.setattr(attention, 'MAX_SEQUENCES', 3)
    monkeypatch.setattr(attention.F, 'scaled_dot_product_attention', counted)
    for expected, given in zip(whole, (None, mask, mask[:1]), strict=True):
        parts = attention._fused_attention(q.as_subclass(OnGPU), k, v, given, 0.0)
        torch.testing.assert_close(parts.as_subclass(torch.Tensor), expected)
    assert calls == [3, 3, 1] * 3
    attention._fused_attention(q, k, v, None, 0.0)
    assert calls[9:] == [7], 'a CPU takes any number'
