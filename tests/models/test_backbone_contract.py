"""What every backbone of the zoo has to keep."""

import copy
import math
import pickle
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmvit_ext.models.backbones import TimmViT
from mmvit_ext.models.backbones.base import Backbone
from mmvit_ext.models.flops import count_flops
from tests.zoo import BACKBONES, PRIME_SIZE

TORCH = tuple(int(part) for part in torch.__version__.split('.')[:2])
SIZES = [PRIME_SIZE, (48, 64), (8, 96)]
rows = pytest.mark.parametrize('row', BACKBONES.values(), ids=BACKBONES)


def flat(outputs):
    return [tensor for out in outputs for tensor in (out if isinstance(out, list | tuple) else [out])]


def image(row, size, batch=2, channels=3):
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1))


def loss_of(outputs):
    return sum((out**2).mean() for out in flat(outputs))


class Changed(nn.Module):
    """A wrapper such as adapters and quantisation put around a layer."""

    def __init__(self, wrapped):
        super().__init__()
        self.wrapped = wrapped

    def forward(self, x):
        return self.wrapped(x).sin()


def layers_to_wrap(model):
    """Linear layers, convolutions and norms: parent, name in it, and layer."""
    kinds = (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.GroupNorm, _BatchNorm)
    return [
        (parent, name, layer)
        for parent in list(model.modules())
        for name, layer in list(parent.named_children())
        if isinstance(layer, kinds)
    ]


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
    counts = []
    for model in (plain, saving):
        calls = dict.fromkeys(model.block_names, 0)
        for name in calls:
            leaf = next(m for m in model.get_submodule(name).modules() if [*m.parameters()] and not [*m.children()])
            leaf.register_forward_hook(lambda *_, name=name, calls=calls: calls.update({name: calls[name] + 1}))
        sum((out**2).mean() for out in flat(model(batch))).backward()
        counts.append(calls)
    assert counts[1] == {name: 2 * calls for name, calls in counts[0].items()}
    assert all(counts[0].values())
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
            outputs = flat(other(image(row, PRIME_SIZE, channels=option.get('in_channels', 3))))
            assert outputs, option
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
def test_a_network_in_bfloat16_trains_without_autocast(row):
    model = row.make(drop_path_rate=0.3).bfloat16().train()
    outputs = flat(model(image(row, PRIME_SIZE).bfloat16()))
    assert {out.dtype for out in outputs} == {torch.bfloat16}
    loss_of(outputs).backward()


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


@rows
@pytest.mark.parametrize('mode', ['train', 'eval', 'autocast', 'with_cp'])
def test_every_leaf_module_runs(row, mode):
    """What is not called is not seen by hooks, adapters, profilers and sharding."""
    model = row.make(with_cp=mode == 'with_cp', drop_rate=0.1, drop_path_rate=0.1).train(mode != 'eval')
    containers = (nn.ModuleList, nn.ParameterList)  # these have no forward pass
    names = {
        module: name
        for name, module in model.named_modules()
        if name.endswith('.attn') or (not list(module.children()) and not isinstance(module, containers))
    }
    silent = set(names.values())
    for module, name in names.items():
        module.register_forward_hook(lambda module, inputs, output, name=name: silent.discard(name))
    with torch.autocast('cpu', dtype=torch.bfloat16) if mode == 'autocast' else nullcontext():
        outputs = model(image(row, PRIME_SIZE))
    assert not [name for name in silent if not name.endswith(tuple(row.not_called))]
    loss_of(outputs).backward()


@rows
def test_every_wrapped_linear_layer_norm_and_convolution_takes_effect(row):
    model, img = row.make().eval(), image(row, PRIME_SIZE)
    before = flat(model(img))
    layers = layers_to_wrap(model)
    assert len(layers) > 10
    for parent, name, layer in layers:
        setattr(parent, name, Changed(layer))
        after = flat(model(img))
        assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), (
            f'{name} of {type(parent).__name__}'
        )
        setattr(parent, name, layer)


@rows
@pytest.mark.skipif(TORCH < (2, 5), reason='older dynamo does not trace the networks whole')
def test_compiling_gives_the_same_numbers_and_passes_no_wrapper_by(row):
    torch._dynamo.reset()
    model, img = row.make().eval(), image(row, PRIME_SIZE)
    for parent, name, layer in layers_to_wrap(model):
        setattr(parent, name, Changed(layer))
    compiled = torch.compile(model, backend='eager', fullgraph=True)
    for ours, plain in zip(flat(compiled(img)), flat(model(img)), strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)


@rows
@pytest.mark.skipif(TORCH < (2, 5), reason='older vmap has no rule for fused attention')
@pytest.mark.filterwarnings('ignore:There is a performance drop')
def test_functional_calls_gradients_and_vmap_work(row):
    model, batch = row.make().eval(), image(row, (24, 40))
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, img):
        return loss_of(torch.func.functional_call(model, parameters, (img[None],)))

    one_by_one = [torch.func.grad(loss)(parameters, img) for img in batch]
    together = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, batch)
    loss_of(model(batch[:1])).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name not in row.without_gradient:
            torch.testing.assert_close(one_by_one[0][name], parameter.grad, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(together[name], torch.stack([g[name] for g in one_by_one]), atol=1e-4, rtol=1e-3)


@rows
@pytest.mark.parametrize('channels', [1, 3, 4])
def test_any_number_of_image_channels_will_do(row, channels):
    model = row.make(in_channels=channels).eval()
    outputs = model(image(row, PRIME_SIZE, channels=channels))
    assert [out.shape[1] for out in outputs] == list(row.channels)


@rows
def test_copies_and_pickles_compute_and_load_the_same(row):
    model, img = row.make().eval(), image(row, PRIME_SIZE)
    stored = row.make(**row.other_size).state_dict()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        for ours, theirs in zip(flat(model(img)), flat(other(img)), strict=True):
            assert torch.equal(ours, theirs)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        other.load_state_dict(stored, strict=True)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@rows
def test_a_file_tells_the_grids_of_its_position_embeddings(row):
    """Grids of the same number of tokens are other grids."""
    if not row.other_size:
        pytest.skip('no position embedding')
    wide, high = row.make(img_size=(32, 128)), row.build(**{**row.tiny, 'img_size': (128, 32)})
    high.load_state_dict(wide.state_dict(), strict=True)
    positions = [name for name, p in wide.named_parameters() if 'pos' in name and max(p.shape[:2]) > 30]
    assert positions or row.build is TimmViT  # SAM stores the grid as axes, DINOv3 no positions
    for name in positions:
        assert not torch.equal(high.state_dict()[name], wide.state_dict()[name])


@rows
def test_every_parameter_has_a_depth(row):
    model = row.make()
    assert isinstance(model, Backbone)
    num_layers = len(model.block_names) + 2
    depths = {name: model.get_layer_depth(f'backbone.{name}', 'backbone.') for name, _ in model.named_parameters()}
    assert {total for _, total in depths.values()} == {num_layers}
    assert {depth for depth, _ in depths.values()} >= set(range(num_layers - 1))
    for index, block in enumerate(model.block_names):
        assert all(depth == index + 1 for name, (depth, _) in depths.items() if name.startswith(f'{block}.'))
    first = next(iter(dict(model.named_parameters())))
    assert model.get_layer_depth(first)[0] == depths[first][0]
    assert model.get_layer_depth('head.fc.weight', 'backbone.') == (num_layers - 1, num_layers)


@rows
def test_intermediate_maps_are_those_of_the_outputs(row):
    model, img = row.make().eval(), image(row, PRIME_SIZE)
    outputs, maps = model(img), model.forward_intermediates(img)
    assert tuple(maps) == model.block_names, 'the row returns its last block'
    for name, found in maps.items():
        channels, stride = model.map_info[name]
        assert found.shape == (2, channels, *(math.ceil(edge / stride) for edge in PRIME_SIZE))
        model.get_submodule(name)
    for name, out in zip(model.out_names, outputs, strict=True):
        assert torch.equal(maps[name], out)
    chosen = model.forward_intermediates(img, [-1, model.block_names[0]])
    assert list(chosen) == [model.block_names[-1], model.block_names[0]]
    assert all(torch.equal(found, maps[name]) for name, found in chosen.items())
    with pytest.raises(ValueError, match='indices'):
        model.forward_intermediates(img, 99)
    with pytest.raises(ValueError, match='indices'):
        model.forward_intermediates(img, 'blocks.99')
    with pytest.raises(ValueError, match=r'indices must be .* got \[\]'):
        model.forward_intermediates(img, [])


@rows
def test_stages_are_frozen_from_the_input_on(row):
    frozen = []
    for stages in (-1, 0, 1):
        model = row.make(frozen_stages=stages, drop_path_rate=0.1).train()
        frozen.append({name for name, p in model.named_parameters() if not p.requires_grad})
        for name, parameter in model.named_parameters():
            module = model.get_submodule(name.rpartition('.')[0])
            if not parameter.requires_grad and module is not model and name not in frozen[0]:
                assert not module.training or any(p.requires_grad for p in module.parameters()), name
        loss_of(model(image(row, PRIME_SIZE))).backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad or name in row.without_gradient, name
    assert frozen[0] < frozen[1] < frozen[2]
    assert all(model.get_layer_depth(name)[0] == 0 for name in frozen[1])
    with pytest.raises(ValueError, match=r'frozen_stages must be -1 to \d+, got 99'):
        row.make(frozen_stages=99)


@rows
def test_outputs_may_be_vectors(row):
    model, img = row.make(out_indices=-1).eval(), image(row, PRIME_SIZE)
    (feature,) = model(img)
    for out_type in model.OUT_TYPES:
        other = row.make(out_indices=-1, out_type=out_type, **row.for_vectors).eval()
        incompatible = other.load_state_dict(model.state_dict(), strict=False)
        assert not incompatible.unexpected_keys
        (out,) = other(img)
        if out_type == 'featmap':
            assert torch.equal(out, feature)
            continue
        assert out.shape == (2, row.channels[-1])
        if out_type == 'avg_featmap':
            before, norm = feature, other.norm if incompatible.missing_keys else nn.Identity()
            if row.build is TimmViT and model.net.norms_the_mean:
                (before,), norm = row.make(out_indices=-1, final_norm='none').eval()(img), model.net.norm
            torch.testing.assert_close(out, norm(before.mean((2, 3))), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(other.averaged_maps(img)[0].mean((2, 3)), out, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match=r"out_type must be one of .*, got 'raw'"):
        row.make(out_type='raw')
