"""What every backbone of the zoo has to keep."""

import math
from functools import partial

import pytest
import torch

from mmvit_ext.models.compute import count_flops
from tests.zoo import BACKBONES, PRIME_SIZE

SIZES = [PRIME_SIZE, (48, 64), (8, 96)]
rows = pytest.mark.parametrize('row', BACKBONES.values(), ids=BACKBONES)


def flat(outputs):
    return [tensor for out in outputs for tensor in (out if isinstance(out, list | tuple) else [out])]


def image(row, size, batch=2):
    return torch.randn(batch, row.tiny.get('in_channels', 3), *size, generator=torch.Generator().manual_seed(1))


@rows
@pytest.mark.parametrize('size', SIZES, ids=str)
def test_maps_have_the_promised_width_and_stride_at_any_size(row, size):
    model = row.make().eval()
    outputs = model(image(row, size))
    assert model.out_channels == row.channels
    assert model.out_strides == row.strides
    for out, width, stride in zip(outputs, row.channels, row.strides, strict=True):
        assert out.shape == (2, width, math.ceil(size[0] / stride), math.ceil(size[1] / stride))
        assert out.is_contiguous(), "mmcv's RoIAlign reads any map as if it were contiguous"


@rows
def test_every_parameter_gets_a_gradient(row):
    model = row.make().train()
    sum((out**2).mean() for out in flat(model(image(row, PRIME_SIZE)))).backward()
    for name, parameter in model.named_parameters():
        if name not in row.without_gradient and parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


@rows
def test_images_of_a_batch_do_not_see_each_other(row):
    model, batch = row.make().eval(), image(row, PRIME_SIZE)
    for whole, alone in zip(flat(model(batch)), flat(model(batch[1:])), strict=True):
        torch.testing.assert_close(whole[1:], alone, atol=1e-5, rtol=1e-5)


@rows
def test_evaluation_repeats_itself(row):
    model, batch = row.make().eval(), image(row, PRIME_SIZE)
    for first, second in zip(flat(model(batch)), flat(model(batch)), strict=True):
        assert torch.equal(first, second)


@rows
def test_activation_checkpointing_changes_nothing(row):
    plain, saving = row.make().train(), row.make(with_cp=True).train()
    batch = image(row, PRIME_SIZE)
    for model in (plain, saving):
        sum((out**2).mean() for out in flat(model(batch))).backward()
    gradients = dict(plain.named_parameters())
    for name, parameter in saving.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad)


@rows
def test_output_indices_may_be_negative_and_reordered(row):
    model, other = row.make().eval(), row.make(out_indices=row.reordered[0]).eval()
    other.load_state_dict(model.state_dict())
    outputs, reordered = model(image(row, PRIME_SIZE)), other(image(row, PRIME_SIZE))
    for index, out in zip(row.reordered[1], reordered, strict=True):
        assert torch.equal(outputs[index], out)


@rows
def test_state_dict_comes_back_strictly(row):
    model, other = row.make().eval(), row.build(**row.tiny).eval()
    other.load_state_dict(model.state_dict(), strict=True)
    for ours, theirs in zip(model(image(row, PRIME_SIZE)), other(image(row, PRIME_SIZE)), strict=True):
        assert torch.equal(ours, theirs)


@rows
def test_weights_load_at_another_training_size(row):
    source = row.make(**row.other_size)
    model = row.build(**row.tiny).eval()
    before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    model.load_state_dict(source.state_dict(), strict=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in source.state_dict().items())
    assert all(torch.isfinite(out).all() for out in model(image(row, PRIME_SIZE)))


@rows
def test_every_option_changes_something(row):
    base = row.make().train()
    for option in row.options:
        other = row.make(**option).train()
        counts = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (base, other)]
        if counts[0] != counts[1]:
            continue
        torch.manual_seed(1)
        ours = flat(base(image(row, PRIME_SIZE)))
        torch.manual_seed(1)
        theirs = flat(other(image(row, PRIME_SIZE)))
        shapes = [[out.shape for out in outs] for outs in (ours, theirs)]
        changed = shapes[0] != shapes[1] or any(not torch.allclose(a, b) for a, b in zip(ours, theirs, strict=True))
        assert changed, f'{option} does nothing'


@rows
def test_bfloat16_autocast_stays_close(row):
    model, batch = row.make().eval(), image(row, PRIME_SIZE)
    exact = flat(model(batch))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        rough = flat(model(batch))
    for a, b in zip(exact, rough, strict=True):
        assert torch.norm(a - b) < 0.05 * torch.norm(a)


@rows
def test_full_size_parameter_counts_are_exact(row):
    for arguments, count in row.parameters:
        with torch.device('meta'):
            model = row.build(**arguments)
        assert sum(parameter.numel() for parameter in model.parameters()) == count, arguments


@rows
def test_full_size_multiply_adds_are_within_two_per_cent_of_the_paper(row):
    for arguments, size, published in row.multiply_adds:
        with torch.device('meta'):
            model = row.build(**arguments).eval()
        image_on_meta = torch.empty(1, 3, *size, device='meta')
        counted = count_flops(partial(model, image_on_meta)) / 2e9
        assert counted == pytest.approx(published, rel=0.02), arguments
