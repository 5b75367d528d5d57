"""A network of timm in the commands: licence and normalisation of its weights, files that are named."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.runner.checkpoint import CheckpointLoader, load_from_local
from safetensors.torch import save_file

from mmvit_ext.config.building import build_model
from mmvit_ext.config.loading import load_config
from mmvit_ext.models.backbones.timm_vit import TimmViT
from tests.tools.test_other_libraries import classification, detection  # noqa: F401

pytest.importorskip('timm')

Config = Callable[..., str]
Run = Callable[..., tuple[int, str]]

TINY = {'depth': 2, 'embed_dim': 16, 'num_heads': 2, 'patch_size': 16, 'mlp_ratio': 2, 'img_size': 32}
LICENCE = 'weights of vit_small_patch14_dinov2, whose published ones have the licence apache-2.0'
WARNING = 'the weights of vit_small_patch14_dinov2 expect RGB images with mean 123.675, 116.28, 103.53 and std'
GIVEN = 'the config gives {} images with mean 127.5, 127.5, 127.5 and std 127.5, 127.5, 127.5: set'


def backbone(**changes: object) -> dict[str, object]:
    return {'type': 'mmvit_ext.TimmViT', 'model': 'vit_small_patch14_dinov2', **TINY, **changes}


def write_weights(path: Path) -> Path:
    torch.manual_seed(0)
    state = TimmViT('vit_small_patch14_dinov2', **TINY).state_dict()
    save_file({name.removeprefix('net.'): value for name, value in state.items()}, path)
    return path


def changed(config: Path, model: str) -> Path:
    config.write_text(f'{config.read_text()}\n{model}\n')
    return config


def in_mmseg(request: pytest.FixtureRequest) -> Path:
    lines = [f"model['backbone'] = {backbone(checkpoint='dino.safetensors')!r}"]
    return Path(request.getfixturevalue('make_config')(*lines))


def in_mmdet(request: pytest.FixtureRequest) -> Path:
    neck = {'type': 'mmvit_ext.PlainPyramid', 'in_channels': 16, 'out_channels': 8, 'num_outs': 5}
    lines = (
        f"model['backbone'] = {backbone(checkpoint='dino.safetensors')!r}",
        f"model['neck'] = {neck!r}",
    )
    return changed(request.getfixturevalue('detection'), '\n'.join(lines))


def in_mmpretrain(request: pytest.FixtureRequest) -> Path:
    lines = (
        f"model['backbone'] = {backbone(checkpoint='dino.safetensors', out_type='cls_token')!r}",
        "model['neck'] = None",
        "model['head']['in_channels'] = 16",
    )
    return changed(request.getfixturevalue('classification'), '\n'.join(lines))


@pytest.mark.parametrize(
    ('configured', 'images', 'order'),
    [(in_mmseg, 'data/images', 'RGB'), (in_mmdet, 'coco/images', 'BGR'), (in_mmpretrain, 'folder/dark', 'RGB')],
)
def test_licence_and_normalisation_are_told_before_a_run(
    configured: Callable[[pytest.FixtureRequest], Path],
    images: str,
    order: str,
    request: pytest.FixtureRequest,
    run_tool: Run,
) -> None:
    config = configured(request)
    write_weights(config.parent / 'dino.safetensors')
    code, output = run_tool('train', config, '--work-dir', 'runs')
    assert code == 0, output[-3000:]
    assert output.count(LICENCE) == 1
    assert f'dino.safetensors: {LICENCE}' in output
    assert '-> backbone: ' in output
    assert output.count(WARNING) == 1
    assert GIVEN.format(order) in output
    (line,) = [line for line in output.splitlines() if WARNING in line]
    assert 'WARNING' in line
    assert output.index(WARNING) < output.index('(train)')
    checkpoint = sorted(Path('runs').glob('[ei]*.pth'))[-1]
    (config.parent / 'dino.safetensors').unlink()  # which only training needs
    for command in (('test',), ('predict', images, '--out', 'out')):
        code, output = run_tool(command[0], config, checkpoint, *command[1:])
        assert code == 0, output[-3000:]
        assert output.count(WARNING) == 1
        assert GIVEN.format(order) in output
        assert LICENCE not in output


def test_a_missing_file_of_a_backbone_is_found_before_the_run(make_config: Config, run_tool: Run) -> None:
    code, output = run_tool('train', make_config(f"model['backbone'] = {backbone(checkpoint='absent.pth')!r}"))
    assert code == 2
    assert 'pretrained checkpoint (model.backbone.checkpoint)' in output
    assert '--cfg-options model.backbone.checkpoint=None' in output
    assert not list(Path().rglob('iter_*.pth'))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is logged, whichever logger an earlier test has left."""
    lines: list[str] = []
    monkeypatch.setattr('mmengine.logging.MMLogger.callHandlers', lambda _, record: lines.append(record.getMessage()))
    return lines


def test_a_file_is_read_without_the_loaders_of_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setitem(CheckpointLoader._schemes, '', load_from_local)
    path = write_weights(tmp_path / 'dino.safetensors')
    network = TimmViT('vit_small_patch14_dinov2', checkpoint=str(path), **TINY)
    network.init_weights()
    torch.manual_seed(0)
    for name, value in TimmViT('vit_small_patch14_dinov2', **TINY).state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name
    assert said.count(f'{path}: {LICENCE}') == 1


def test_a_name_without_a_tag_has_the_licences_of_all_its_tags(tmp_path: Path, said: list[str]) -> None:
    network = TimmViT('vit_base_patch16_224', **TINY)
    torch.save(network.state_dict(), tmp_path / 'a.pth')
    TimmViT('vit_base_patch16_224', checkpoint=str(tmp_path / 'a.pth'), **TINY).init_weights()
    assert said[-1].endswith('published ones have the licence apache-2.0 or cc-by-nc-4.0 or not stated')


def test_a_model_for_predictions_asks_for_no_weights(make_config: Config) -> None:
    config = make_config(f"model['backbone'] = {backbone(checkpoint='timm')!r}")
    assert build_model(load_config(config)).backbone.checkpoint is None


def test_weights_by_name_tell_their_licence(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    monkeypatch.setattr(
        'timm.models._builder.load_pretrained', lambda *_, **__: None
    )  # a download that changes nothing
    network = TimmViT('vit_base_patch16_224.mae', checkpoint='timm', **TINY)
    network.init_weights()
    assert [line for line in said if 'licence' in line] == [
        'vit_base_patch16_224.mae: weights by timm, licence cc-by-nc-4.0'
    ]
