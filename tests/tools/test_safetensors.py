"""Checkpoints of the safetensors format in every command, and the one that ``mmvit convert`` writes."""

import json
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from mmvit_ext.checkpoints.formats import KEY, write_safetensors
from mmvit_ext.checkpoints.reading import extract_state_dict, read_checkpoint
from mmvit_ext.config.building import build_model
from mmvit_ext.config.loading import load_config
from mmvit_ext.errors import UserError
from mmvit_ext.inference.export import TORCH
from mmvit_ext.reproduce.rescore import Checkpoint, usable_checkpoint
from tests.zoo import BACKBONES

Config = Callable[..., str]
Run = Callable[..., tuple[int, str]]

VIT = """
model['backbone'] = dict(
    type='mmvit_ext.ViT',
    arch=dict(embed_dims=16, num_layers=2, num_heads=2, mlp_ratio=2),
    patch_size=8,
    img_size=(32, 128),
    out_indices=(1,),
)
"""


@pytest.fixture
def model(make_config: Config) -> str:
    """The config of a segmentor with a wide position embedding; its weights are in both formats beside it."""
    config = make_config(VIT)
    torch.manual_seed(0)
    network = build_model(load_config(config))
    meta = {'dataset_meta': {'classes': ['one', 'two', 'three'], 'palette': [[0, 0, 1], [0, 2, 0], [3, 0, 0]]}}
    folder = Path(config).parent
    torch.save({'state_dict': network.state_dict(), 'meta': meta}, folder / 'model.pth')
    write_safetensors(folder / 'model.safetensors', network.state_dict(), meta)
    return config


def test_predictions_are_those_of_the_other_format(model: str, run_tool: Run) -> None:
    for kind in ('pth', 'safetensors'):
        code, output = run_tool('predict', model, f'model.{kind}', 'data/images', '--out', kind, '--save-mask')
        assert code == 0, output[-2000:]
    for path in Path('pth').rglob('*.png'):
        same = Path('safetensors', path.relative_to('pth'))
        assert Image.open(same).tobytes() == Image.open(path).tobytes()
    assert list(Path('pth').rglob('*.png'))


@pytest.mark.parametrize(
    'arguments',
    [
        ('test', 'CONFIG', 'model.safetensors'),
        ('explain', 'tokens', 'CONFIG', 'model.safetensors', 'data/images/image_0.png', '--out', 'out', '--no-tsne'),
        ('export', 'CONFIG', 'model.safetensors', 'graph.pt2', '--size', '32', '48'),
        ('train', 'CONFIG', '--cfg-options', 'load_from=model.safetensors', 'train_cfg.max_iters=1'),
        (
            'train',
            'CONFIG',
            '--cfg-options',
            'train_cfg.max_iters=1',
            'model.backbone.init_cfg.type=Pretrained',
            'model.backbone.init_cfg.checkpoint=model.safetensors',
            'model.backbone.init_cfg.prefix=backbone.',
        ),
    ],
    ids=lambda arguments: ' '.join(arguments[:2]),
)
def test_every_command_reads_it(arguments: tuple[str, ...], model: str, run_tool: Run) -> None:
    if arguments[0] == 'export' and TORCH < (2, 5):
        pytest.skip('torch.export is younger')
    code, output = run_tool(*(model if word == 'CONFIG' else word for word in arguments))
    assert code == 0, output[-2000:]
    if arguments[0] == 'train':
        assert 'parameters matched, 0 missing, 0 unexpected, 0 of another shape' in output
        assert 'does not tell the grid' not in output


def test_a_row_of_the_ledger_takes_it(model: str, tmp_path: Path) -> None:
    class Row:
        class collection:
            converter = 'segvit'

    given = Checkpoint(tmp_path / 'model.safetensors', '0' * 64, 'a file that was given')
    assert usable_checkpoint(given, load_config(model), Row, tmp_path) == (given.path, None)  # type: ignore[arg-type]


def test_weights_alone_cannot_be_resumed(model: str, run_tool: Run) -> None:
    code, output = run_tool('train', model, '--resume', 'model.safetensors')
    assert code == 2
    assert 'model.safetensors cannot be resumed, it has no message_hub, optimizer: it holds weights only' in output


# What convert writes


def test_a_training_checkpoint_becomes_weights_alone_in_either_format(trained: Path, run_tool: Run) -> None:
    source = trained / 'work_dir' / 'iter_2.pth'
    assert run_tool('convert', 'weights', source, 'model.safetensors', '--safetensors')[0] == 0
    assert run_tool('convert', 'weights', 'model.safetensors', 'model.pth')[0] == 0
    before = torch.load(source, weights_only=False)
    with safe_open('model.safetensors', 'pt') as file:
        assert file.metadata()['format'] == 'pt'
    for name in ('model.safetensors', 'model.pth'):
        content = read_checkpoint(name)
        state = extract_state_dict(content, name)
        assert set(content) == {'state_dict', 'meta'}
        assert set(state) == set(before['state_dict'])
        for key, value in before['state_dict'].items():
            assert torch.equal(state[key], value), key
            assert state[key].dtype == value.dtype
        assert content['meta']['method'] == 'weights'
        told = content['meta']['dataset_meta']
        assert list(told['classes']) == ['wall', 'floor', 'sky']
        assert [list(colour) for colour in told['palette']] == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    network = build_model(load_config(trained / 'config.py'))
    network.load_state_dict(extract_state_dict(read_checkpoint('model.safetensors'), 'model'), strict=True)


@pytest.mark.parametrize(
    ('name', 'options', 'message'),
    [
        ('result.pth', ['--safetensors'], 'with --safetensors name a file that ends in .safetensors'),
        ('result.safetensors', [], 'pass --safetensors, or do not name a file that ends in .safetensors'),
    ],
)
def test_name_and_format_have_to_agree(name: str, options: list[str], message: str, model: str, run_tool: Run) -> None:
    code, output = run_tool('convert', 'weights', 'model.pth', name, *options)
    assert code == 2
    assert f'{name}: {message}' in output
    assert not Path(name).exists()


def test_a_file_that_exists_stays_and_one_of_timm_is_renamed(run_tool: Run) -> None:
    row = BACKBONES['ViT']
    shapes = {'cls_token': (1, 1, 8), 'pos_embed': (1, 5, 8), 'patch_embed.proj.weight': (8, 3, 4, 4)}
    torch.save({name: torch.randn(shape) for name, shape in shapes.items()}, 'timm.pth')
    assert row.build.__name__ == 'ViT'
    assert run_tool('convert', 'vit', 'timm.pth', 'vit.safetensors', '--safetensors')[0] == 0
    content = read_checkpoint('vit.safetensors')
    assert set(content['state_dict']) == {'cls_token', 'pos_embed', 'patch_embed.projection.weight'}
    shutil.copy('vit.safetensors', 'before.safetensors')
    assert run_tool('convert', 'vit', 'timm.pth', 'vit.safetensors', '--safetensors')[0] == 2
    assert Path('vit.safetensors').read_bytes() == Path('before.safetensors').read_bytes()


@pytest.mark.parametrize('family', ['DINOv2', 'BEiT', 'SAM'])
@pytest.mark.parametrize('kind', ['pth', 'safetensors'])
def test_the_grid_of_positions_comes_along(family: str, kind: str, run_tool: Run) -> None:
    """Four rows of sixteen tokens, as many as a square of eight has."""
    pytest.importorskip('timm')
    row = BACKBONES[family]
    wide = row.make(img_size=(32, 128))
    torch.save({'state_dict': wide.state_dict(), 'meta': {}}, 'wide.pth')
    options = ['--safetensors'] if kind == 'safetensors' else []
    assert run_tool('convert', 'weights', 'wide.pth', f'weights.{kind}', *options)[0] == 0
    told, direct = (row.build(**{**row.tiny, 'img_size': (64, 96)}) for _ in range(2))
    content = read_checkpoint(f'weights.{kind}')
    told.load_state_dict(extract_state_dict(content, 'weights'), strict=True)
    direct.load_state_dict(wide.state_dict(), strict=True)
    for name, value in direct.state_dict().items():
        assert torch.equal(told.state_dict()[name], value), name
    again = row.build(**{**row.tiny, 'img_size': (32, 128)})
    again.load_state_dict(extract_state_dict(content, 'weights'), strict=True)
    for name, value in wide.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize(
    'text',
    [
        '[]',
        '{',
        '{"meta": {}}',
        '{"meta": 3, "grids": {}}',
        '{"meta": {}, "grids": {"": 7}}',
        '[' * 100_000,
    ],
    ids=lambda text: text[:30],
)
def test_metadata_of_another_form_are_a_fault_of_the_file(text: str, tmp_path: Path) -> None:
    save_file({'weight': torch.zeros(2)}, tmp_path / 'a.safetensors', metadata={KEY: text})
    with pytest.raises(UserError, match=r'a\.safetensors is damaged .*download or copy it again'):
        read_checkpoint(tmp_path / 'a.safetensors')


@pytest.mark.parametrize('grid', ['x', [4], [0, 0], [4, 5], None])
def test_a_grid_that_cannot_be_is_not_followed(grid: object, tmp_path: Path) -> None:
    row = BACKBONES['ViT']
    plain = row.make()
    text = json.dumps({'meta': {}, 'grids': {'': {'pos_embed': grid}}})
    save_file(dict(plain.state_dict()), tmp_path / 'a.safetensors', metadata={KEY: text})
    other = row.build(**row.tiny)
    other.load_state_dict(read_checkpoint(tmp_path / 'a.safetensors')['state_dict'], strict=True)
    assert torch.equal(other.pos_embed, plain.pos_embed)


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_metadata_that_nobody_wrote_are_left_out(suffix: str, run_tool: Run) -> None:
    state = OrderedDict(weight=torch.ones(2), pos_embed=torch.ones(4, 3))
    vars(state)['_metadata'] = {'': {'grids': {'pos_embed': (2, 2), 'weight': 'x', 5: 6}}, 'a': 5, 7: {'grids': [1]}}
    torch.save({'state_dict': state}, 'odd.pth')
    options = ['--safetensors'] if suffix == 'safetensors' else []
    code, output = run_tool('convert', 'weights', 'odd.pth', f'out.{suffix}', *options)
    assert code == 0, output
    found = extract_state_dict(read_checkpoint(f'out.{suffix}'), 'out')
    assert found._metadata[''] == {'grids': {'pos_embed': (2, 2) if suffix == 'pth' else [2, 2]}}
    assert torch.equal(found['pos_embed'], state['pos_embed'])


def test_numbers_that_the_format_does_not_have_are_named(run_tool: Run) -> None:
    torch.save({'phase': torch.zeros(2, dtype=torch.complex128)}, 'complex.pth')
    code, output = run_tool('convert', 'weights', 'complex.pth', 'out.safetensors', '--safetensors')
    assert code == 2
    assert 'out.safetensors: the safetensors format has no numbers of torch.complex128, write a .pth file' in output
    assert not Path('out.safetensors').exists()
