"""Checkpoints from elsewhere: no code in them runs, whichever way they are read, and hashes are what names promise."""

import argparse
import hashlib
import os
import pickle
import shutil
import socket
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule
from mmengine.runner.checkpoint import CheckpointLoader, load_checkpoint, load_from_local
from mmengine.utils import digit_version
from safetensors.torch import save_file

from mmvit_ext.checkpoints import reading
from mmvit_ext.checkpoints.formats import load_restricted
from mmvit_ext.checkpoints.reading import metafile_hash, read_checkpoint
from mmvit_ext.checkpoints.report import check_report, load_weights
from mmvit_ext.checkpoints.safe_loading import SafeFilesHook, install_safe_loading, safe_loading
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import named_hash, verify_hash
from tests.reproduce.file_server import serving


class Malicious:
    """Unpickling it makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.target),)


@pytest.fixture(autouse=True)
def _own_loaders() -> Iterator[None]:
    before = dict(CheckpointLoader._schemes)
    yield
    CheckpointLoader._schemes = before


@pytest.fixture(params=['zip', 'legacy'])
def malicious(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / 'malicious.pth'
    content = {'state_dict': {'weight': torch.zeros(2, 3)}, 'meta': {'surprise': Malicious(tmp_path / 'owned')}}
    torch.save(content, path, _use_new_zipfile_serialization=request.param == 'zip')
    return path


@pytest.fixture(params=['weights_only', 'restricted'])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of reading: PyTorch's own, and the one for versions whose list of types cannot be extended."""
    if request.param == 'restricted':
        monkeypatch.setattr(reading, 'load_without_code', lambda file, where='cpu': load_restricted(file, where))
    elif not hasattr(torch.serialization, 'safe_globals'):
        pytest.skip('this PyTorch has no list of safe types')
    return request.param


def training_state() -> dict[str, Any]:
    """What a checkpoint of mmengine holds besides tensors."""
    buffer = HistoryBuffer([0.5, 0.25], [1, 1])
    hub = {'log_scalars': {'train/loss': buffer}, 'runtime_info': {'iter': 3, 'loss': np.float64(0.5)}}
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    arrays = {kind: np.arange(3).astype(kind) for kind in ('float32', 'uint32', 'int64', 'bool', 'uint8')}
    noted = torch.ones(4, 3)
    vars(noted)['grid'] = (2, 2)  # as read_checkpoint notes it
    return {
        'state_dict': {**model.state_dict(), 'pos_embed': noted},
        'param_schedulers': [{'milestones': Counter([8, 11])}],
        'optimizer': optimizer.state_dict(),
        'message_hub': hub,
        'meta': {'iter': 3, 'shape': torch.Size([2, 3]), 'arrays': arrays, 'half': torch.zeros(2).bfloat16()},
    }


def test_a_malicious_checkpoint_runs_nothing(malicious: Path, reader: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'malicious\.pth holds more than tensors and plain values .*pass --trust'):
        read_checkpoint(malicious)
    assert not (tmp_path / 'owned').exists()


def test_only_trust_reads_it(malicious: Path, tmp_path: Path) -> None:
    assert read_checkpoint(malicious, trust=True)['state_dict']['weight'].shape == (2, 3)
    assert (tmp_path / 'owned').exists()


@pytest.mark.parametrize('legacy', [False, True])
def test_a_checkpoint_of_a_training_run_needs_no_trust(reader: str, legacy: bool, tmp_path: Path) -> None:
    expected = training_state()
    torch.save(expected, tmp_path / 'a.pth', _use_new_zipfile_serialization=not legacy)
    content = read_checkpoint(tmp_path / 'a.pth')
    assert torch.equal(content['state_dict']['weight'], expected['state_dict']['weight'])
    state = content['optimizer']['state'][0]
    assert torch.equal(state['exp_avg'], expected['optimizer']['state'][0]['exp_avg'])
    assert torch.equal(content['state_dict']['pos_embed'], torch.ones(4, 3))
    assert content['param_schedulers'][0]['milestones'] == {8: 1, 11: 1}
    assert content['message_hub']['log_scalars']['train/loss'].mean() == 0.375
    assert content['message_hub']['runtime_info']['loss'] == 0.5
    assert content['meta']['shape'] == torch.Size([2, 3])
    for kind, array in expected['meta']['arrays'].items():
        assert content['meta']['arrays'][kind].dtype == kind
        assert np.array_equal(content['meta']['arrays'][kind], array)


class _Note:
    """An object of a library that is not installed any more, as files of mmcv 1.x may hold them."""


@pytest.mark.parametrize('legacy', [False, True])
def test_a_training_checkpoint_of_mmcv_1_gives_its_weights(reader: str, legacy: bool, tmp_path: Path) -> None:
    """As the authors' files are: an ordered dict with its metadata, meta with texts, optimiser with state by number."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, weight_decay=0.01)
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    content = {
        'meta': {
            'env_info': 'sys.platform: linux',
            'mmseg_version': '0.24.0+763137e',
            'config': 'model = dict(type="EncoderDecoder")',
            'CLASSES': ('wall', 'building'),
            'PALETTE': [[120, 120, 120], [180, 120, 120]],
            'epoch': 63,
            'iter': 160000,
            'mmcv_version': '1.4.4',
            'time': 'Mon Oct 10 10:10:10 2022',
            'hook_msgs': {
                'best_score': np.float64(0.513),
                'best_ckpt': 'work_dirs/iter_160000.pth',
                'seed': np.int64(3),
            },
        },
        'state_dict': model.state_dict(),
        'optimizer': optimizer.state_dict(),
    }
    path = tmp_path / 'ade_51.3.pth'
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    weights = reading.extract_state_dict(read_checkpoint(path), path)
    assert list(weights) == list(model.state_dict())
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_what_an_unknown_class_in_meta_needs_is_trust_and_nothing_else(reader: str, tmp_path: Path) -> None:
    path = tmp_path / 'released.pth'
    torch.save({'meta': {'note': _Note()}, 'state_dict': {'weight': torch.zeros(2)}}, path)
    with pytest.raises(UserError, match=r'released\.pth holds more than tensors and plain values .*pass --trust'):
        read_checkpoint(path)


class _GetAttribute:
    def __init__(self, owner: Any, name: str) -> None:
        self.arguments = (owner, name)

    def __reduce__(self) -> tuple:
        return getattr, self.arguments


@pytest.mark.parametrize(
    ('owner', 'name'), [(HistoryBuffer, '__init__'), (np.ndarray, 'tofile'), (HistoryBuffer, 'update')]
)
def test_getattr_reaches_nothing_but_the_methods_of_log_buffers(
    reader: str, owner: Any, name: str, tmp_path: Path
) -> None:
    torch.save({'a': torch.zeros(1), 'method': _GetAttribute(owner, name)}, tmp_path / 'a.pth')
    with pytest.raises(UserError, match='holds more than tensors'):
        read_checkpoint(tmp_path / 'a.pth')


@pytest.mark.parametrize('module', ['numpy.core.multiarray', 'numpy._core.multiarray'])
def test_arrays_of_numpy_1_and_2_are_both_read(reader: str, module: str, tmp_path: Path) -> None:
    torch.save(
        {'a': torch.zeros(1), 'loss': np.float64(0.75)}, tmp_path / 'a.pth', _use_new_zipfile_serialization=False
    )
    written = np.float64(0).__reduce__()[0].__module__
    content = (tmp_path / 'a.pth').read_bytes()
    assert f'c{written}\nscalar'.encode() in content
    (tmp_path / 'a.pth').write_bytes(content.replace(f'c{written}\n'.encode(), f'c{module}\n'.encode()))
    if reader == 'weights_only' and digit_version(torch.__version__) < digit_version('2.6'):
        pytest.skip('this PyTorch knows one name of a type only')
    assert read_checkpoint(tmp_path / 'a.pth')['loss'] == 0.75


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('seed', range(8))
def test_damaged_bytes_end_in_one_sentence(seed: int, legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / 'a.pth'
    torch.save(training_state(), path, _use_new_zipfile_serialization=not legacy)
    content = bytearray(path.read_bytes())
    generator = np.random.default_rng(seed)
    start = int(generator.integers(1, len(content) // 2))
    content[start : start + 40] = generator.integers(0, 256, 40, dtype=np.uint8).tobytes()
    path.write_bytes(content)
    message = ''
    try:
        assert isinstance(read_checkpoint(path), dict)  # the damage may lie in the numbers of a tensor
    except UserError as error:
        message = str(error)
    assert not message or 'a.pth' in message


def test_a_torchscript_program_is_refused(reader: str, tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(3, 2), torch.zeros(1, 3)), str(tmp_path / 'a.pth'))
    with pytest.raises(UserError, match=r'a\.pth is a TorchScript program'):
        read_checkpoint(tmp_path / 'a.pth')


def test_an_archive_of_the_format_before_last_is_refused(tmp_path: Path) -> None:
    # PyTorch up to 2.5 reads a tar archive with plain pickle, whatever weights_only says.
    with tarfile.open(tmp_path / 'a.pth', 'w') as archive:
        archive.addfile(tarfile.TarInfo('pickle'))
    with pytest.raises(UserError, match='is no PyTorch checkpoint'):
        read_checkpoint(tmp_path / 'a.pth')


@pytest.mark.parametrize('name', ['default', 'classification', 'detection'])
def test_the_runtime_of_the_configs_has_the_hooks(name: str) -> None:
    root = Path(__file__).resolve().parents[2] / 'configs' / '_base_'
    types = {hook['type'] for hook in Config.fromfile(root / f'{name}_runtime.py').default_hooks.values()}
    assert {'mmvit_ext.NonFiniteHook', 'mmvit_ext.SafeFilesHook', 'mmvit_ext.SkippedSamplesHook'} <= types


FOREIGN = {
    'page.pth': (b'<!DOCTYPE html><html>', 'a web page: download the file itself'),
    'pointer.pth': (b'version https://git-lfs.github.com/spec/v1\noid sha256:00', 'git lfs pull'),
    'packed.pth': (b'\x1f\x8b\x08\x00', 'a gzip archive: unpack it'),
    'pickled.pkl': (pickle.dumps({'weight': list(range(40))}), 'a plain pickle: write its tensors with torch.save'),
    'keras.h5': (b'\x89HDF\r\n\x1a\n', 'an HDF5 file'),
    'short.pth': (b'\x80\x02\x8a\nl', 'download or copy it again'),
}


@pytest.mark.parametrize('name', FOREIGN)
def test_files_of_another_kind_are_called_by_their_name(name: str, tmp_path: Path) -> None:
    content, message = FOREIGN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f'{name} is no PyTorch checkpoint.*{message}'):
        read_checkpoint(tmp_path / name)


def test_arrays_of_jax_are_called_so(tmp_path: Path) -> None:
    np.savez(tmp_path / 'B_16.npz', kernel=np.zeros(3))
    with pytest.raises(UserError, match=r'B_16\.npz is arrays of NumPy .*JAX'):
        read_checkpoint(tmp_path / 'B_16.npz')


def test_the_type_that_needs_trust_is_named(reader: str, tmp_path: Path) -> None:
    path = tmp_path / 'deit.pth'
    torch.save({'model': {'a': torch.zeros(1)}, 'args': argparse.Namespace(lr=1)}, path)
    with pytest.raises(UserError, match=r'values \(an object of argparse\.Namespace\): pass --trust'):
        read_checkpoint(path)
    assert read_checkpoint(path, trust=True)['args'].lr == 1


@pytest.mark.parametrize('kind', ['pipe', 'folder', 'device', 'socket'])
def test_what_is_no_regular_file_is_named_without_waiting(kind: str, tmp_path: Path) -> None:
    path = tmp_path / 'a.pth'
    if kind == 'pipe':
        os.mkfifo(path)
    elif kind == 'folder':
        path.mkdir()
    elif kind == 'device':
        path.symlink_to('/dev/zero')
    else:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(str(path))
    with pytest.raises(UserError, match=rf'a\.pth is a .*{kind}: expected a regular file'):
        read_checkpoint(path)
    with pytest.raises(UserError, match='there is no checkpoint'):
        read_checkpoint(path / 'b.pth' if kind != 'folder' else tmp_path / 'b.pth')
    with pytest.raises(UserError, match='cannot be the name of a checkpoint'):
        read_checkpoint(f'{path}\0')


@pytest.mark.parametrize('noted', [2, 1.5, 'next'])
def test_a_format_of_a_later_version_is_told_as_such(noted: Any, tmp_path: Path) -> None:
    torch.save({'meta': {'mmvit_ext_format': noted}, 'state_dict': {'a': torch.zeros(1)}}, tmp_path / 'a.pth')
    with pytest.raises(UserError, match=r'written by a newer version of mmvit_ext .*update mmvit_ext'):
        read_checkpoint(tmp_path / 'a.pth')
    torch.save({'meta': dict(reading.FORMAT), 'state_dict': {'a': torch.zeros(1)}}, tmp_path / 'a.pth')
    assert read_checkpoint(tmp_path / 'a.pth')['meta'] == reading.FORMAT


def test_an_archive_of_a_later_pytorch_is_told_as_such(tmp_path: Path) -> None:
    torch.save({'a': torch.zeros(3)}, tmp_path / 'a.pth')
    with zipfile.ZipFile(tmp_path / 'a.pth') as old, zipfile.ZipFile(tmp_path / 'b.pth', 'w') as new:
        for entry in old.infolist():
            new.writestr(entry.filename, b'9999\n' if entry.filename.endswith('/version') else old.read(entry))
    with pytest.raises(UserError, match=r'of a newer format than this PyTorch reads .*update PyTorch'):
        read_checkpoint(tmp_path / 'b.pth')


# Safetensors


def test_safetensors_are_read_wherever_a_checkpoint_is(tmp_path: Path) -> None:
    weights = {'weight': torch.arange(6.0).reshape(2, 3)}
    save_file(weights, tmp_path / 'model.safetensors', metadata={'format': 'pt'})
    shutil.copy(tmp_path / 'model.safetensors', tmp_path / 'renamed.bin')
    for name in ('model.safetensors', 'renamed.bin'):
        reading.check_checkpoint_file(tmp_path / name)
        content = reading.extract_state_dict(read_checkpoint(tmp_path / name), name)
        assert torch.equal(content['weight'], weights['weight'])
        layer = Layer(init_cfg={'type': 'Pretrained', 'checkpoint': str(tmp_path / name)})
        with safe_loading():
            layer.init_weights()
        assert torch.equal(layer.weight, weights['weight'])


@pytest.mark.parametrize('keep', [4, 30, -5])
def test_a_cut_off_safetensors_file_is_called_damaged(keep: int, tmp_path: Path) -> None:
    save_file({'weight': torch.zeros(50)}, tmp_path / 'model.safetensors')
    (tmp_path / 'model.safetensors').write_bytes((tmp_path / 'model.safetensors').read_bytes()[:keep])
    with pytest.raises(UserError, match=r'model\.safetensors is damaged .*download or copy it again'):
        read_checkpoint(tmp_path / 'model.safetensors')


# Foreign names

STYLES = {
    'visual.transformer.resblocks.0.attn.in_proj_weight': 'CLIP: no converter',
    'vision_model.encoder.layers.0.self_attn.q_proj.weight': 'CLIP: no converter',
    'vit.encoder.layer.0.attention.attention.query.weight': 'Hugging Face transformers: no converter .*TimmViT',
    'encoder.layers.encoder_layer_0.self_attention.in_proj_weight': "torchvision's ViT: no converter",
    'blocks.3.gamma_1': 'BEiT: no converter .*TimmViT',
    'blocks.3.ls1.gamma': 'a ViT with layer scale .*: no converter .*TimmViT',
    'layers.0.blocks.0.attn.qkv.weight': 'Swin: no converter',
    'layer1.0.conv1.weight': 'a ResNet: no converter',
    'backbone.layers.0.attn.qkv.weight': "mmpretrain's ViT: no converter",
    'dist_token': 'convert the file with `mmvit convert deit FILE OUT.pth`',
    'blocks.0.attn.qkv.weight': 'convert the file with `mmvit convert vit FILE OUT.pth`',
    'pixel_pos': '`mmvit convert tnt FILE OUT.pth`',
    'levels.0.transformer_encoder.0.norm1.weight': '`mmvit convert nest FILE OUT.pth`',
    'patch_embed1.proj.weight': '`mmvit convert p2t FILE OUT.pth`',
    'decode_head.decoder_1.layers.0.norm1.weight': '`mmvit convert segvit FILE OUT.pth`',
}


@pytest.mark.parametrize('name', STYLES)
def test_foreign_names_come_with_the_way_from_there(name: str) -> None:
    report = load_weights(Layer(), {name: torch.zeros(2), 'norm.weight': torch.zeros(2)})
    with pytest.raises(UserError, match=f'the names are those of .*{STYLES[name]}'):
        check_report(report, 'a.pth', 'the model', strict=False)


def test_names_of_nobody_come_with_the_general_advice() -> None:
    report = load_weights(Layer(), {'strange': torch.zeros(2)})
    with pytest.raises(UserError, match='use the checkpoint that belongs to this config'):
        check_report(report, 'a.pth', 'the model', strict=False)


# Through the libraries' loaders


class Layer(BaseModule):
    """A part of a model with pretrained weights."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.weight = torch.nn.Parameter(torch.ones(2, 3))


def test_mmengine_itself_would_run_it(malicious: Path, tmp_path: Path) -> None:
    # What this is for; should mmengine stop falling back one day, the loaders can go.
    CheckpointLoader.register_scheme('', load_from_local, force=True)
    load_checkpoint(Layer(), str(malicious), map_location='cpu')
    assert (tmp_path / 'owned').exists()


def test_pretrained_weights_are_read_without_running_code(malicious: Path, tmp_path: Path) -> None:
    layer = Layer(init_cfg={'type': 'Pretrained', 'checkpoint': str(malicious)})
    with safe_loading(), pytest.raises(UserError, match='pass --trust'):
        layer.init_weights()
    assert not (tmp_path / 'owned').exists()
    with safe_loading(trust=True):
        layer.init_weights()
    assert layer.weight.sum() == 0


def test_building_the_hook_is_enough_in_any_train_script(malicious: Path, tmp_path: Path) -> None:
    SafeFilesHook()
    with pytest.raises(UserError, match='pass --trust'):
        load_checkpoint(Layer(), str(malicious))
    assert not (tmp_path / 'owned').exists()


def test_after_the_block_the_loaders_are_the_libraries_own() -> None:
    before = dict(CheckpointLoader._schemes)
    with safe_loading():
        assert dict(CheckpointLoader._schemes) != before
    assert dict(CheckpointLoader._schemes) == before


def test_every_scheme_of_the_libraries_is_covered() -> None:
    before = dict(CheckpointLoader._schemes)
    install_safe_loading()
    left = [prefix for prefix, loader in CheckpointLoader._schemes.items() if loader is before.get(prefix)]
    assert not left


def test_addresses_go_through_the_checked_download(malicious: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from mmvit_ext.checkpoints import downloads

    monkeypatch.setattr(downloads, 'cache_folder', lambda: tmp_path / 'cache')
    fetched = []

    def fetch(address: str) -> Path:
        fetched.append(address)
        target = downloads.cached_path(address, downloads.cache_folder())
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(malicious, target))

    monkeypatch.setattr(downloads, 'fetch', fetch)
    install_safe_loading()
    for address in ('https://example.org/a.pth', 'torchvision://resnet18', 'open-mmlab://resnet50_v1c'):
        # Known checkpoints have a hash in their name, and this one is another file.
        with pytest.raises(UserError, match='pass --trust' if 'example' in address else 'where its name says'):
            load_checkpoint(Layer(), address)
    assert fetched[0] == 'https://example.org/a.pth'
    assert fetched[1].startswith('https://download.pytorch.org/models/resnet18')
    assert 'resnet50_v1c' in fetched[2]
    assert not (tmp_path / 'owned').exists()
    with pytest.raises(UserError, match='no checkpoint that is known by name'):
        load_checkpoint(Layer(), 'torchvision://resnet')


def test_buckets_are_read_without_running_code(malicious: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from mmvit_ext.checkpoints import safe_loading as module

    monkeypatch.setattr(module, 'read_address', lambda address: malicious.read_bytes())
    install_safe_loading()
    with pytest.raises(UserError, match=r's3://bucket/a\.pth, .*holds more than tensors'):
        load_checkpoint(Layer(), 's3://bucket/a.pth')
    assert not (tmp_path / 'owned').exists()


def test_a_distributed_run_loads_weights_from_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({'state_dict': {'weight': torch.ones(2, 3)}}, tmp_path / 'a.pth')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    install_safe_loading()
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/meeting', rank=0, world_size=1)
    try:
        with serving((tmp_path / 'a.pth').read_bytes()) as server:
            for _ in range(2):
                content = CheckpointLoader.load_checkpoint(f'{server.address}/a.pth')
        assert content['state_dict']['weight'].sum() == 6
        assert len(server.asked) == 1
    finally:
        torch.distributed.destroy_process_group()


# Hashes


def test_a_hash_is_told_from_a_date_and_a_word() -> None:
    assert named_hash('a/segvit_20220101-1a2b3c4d.pth') == '1a2b3c4d'
    assert named_hash('https://example.org/deit-cd65a155.pth') == 'cd65a155'
    assert named_hash('run-20240131.pth') is None
    assert named_hash('run-20240199.pth') == '20240199'  # no day of a month
    assert named_hash('segvit-l16.pth') is None
    assert named_hash('iter_100.pth') is None
    assert named_hash('iter-00012000.pth') is None
    assert named_hash('resnet34-43635321.pth') == '43635321'


def test_a_file_is_compared_with_the_hash_in_its_name(tmp_path: Path) -> None:
    torch.save({'a': torch.zeros(1)}, tmp_path / 'a.pth')
    digits = hashlib.sha256((tmp_path / 'a.pth').read_bytes()).hexdigest()
    good, bad = tmp_path / f'a-{digits[:8]}.pth', tmp_path / 'a-00c0ffee.pth'
    shutil.copy(tmp_path / 'a.pth', good)
    shutil.copy(tmp_path / 'a.pth', bad)
    assert list(read_checkpoint(good)) == ['a']
    with pytest.raises(
        UserError, match=rf'a-00c0ffee\.pth has the SHA-256 {digits[:8]}\.\.\. where its name says 00c0ffee'
    ):
        read_checkpoint(bad, trust=True)
    torch.save({'a': torch.ones(2)}, good)  # another file of the same name: the earlier result must not count
    with pytest.raises(UserError, match='download it again'):
        read_checkpoint(good)


def test_the_metafile_beside_a_config_is_asked_for_the_hash(tmp_path: Path) -> None:
    torch.save({'a': torch.zeros(1)}, tmp_path / 'released.pth')
    digits = hashlib.sha256((tmp_path / 'released.pth').read_bytes()).hexdigest()
    metafile = 'Models:\n- Name: x\n- Name: a\n  Weights: https://example.org/v1/released.pth\n  SHA256: "{}"\n'
    (tmp_path / 'metafile.yml').write_text(metafile.format(digits))
    config = tmp_path / 'config.py'
    assert metafile_hash(config, '/elsewhere/released.pth') == digits
    assert metafile_hash(config, 'other.pth') is None
    assert metafile_hash(tmp_path / 'folder' / 'config.py', 'released.pth') is None
    verify_hash(tmp_path / 'released.pth', metafile_hash(config, 'released.pth'))
    install_safe_loading(config=config)
    load_checkpoint(torch.nn.Identity(), str(tmp_path / 'released.pth'))
    (tmp_path / 'metafile.yml').write_text(metafile.format('00c0ffee'))
    with pytest.raises(UserError, match='where the metafile or address says 00c0ffee'):
        load_checkpoint(torch.nn.Identity(), str(tmp_path / 'released.pth'))
    (tmp_path / 'metafile.yml').write_text(metafile.format('not a hash'))
    with pytest.raises(UserError, match='expected 8 to 64 hexadecimal digits'):
        metafile_hash(config, 'released.pth')


def test_an_address_is_no_damaged_file_and_lack_of_memory_no_damage(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r'the checkpoint https://example.org/a.pth is an address: download it'):
        read_checkpoint('https://example.org/a.pth')
    torch.save({'state_dict': {'a': torch.zeros(1)}}, tmp_path / 'a.pth')

    def full(*_):
        raise MemoryError

    monkeypatch.setattr(reading, '_read', full)
    with pytest.raises(MemoryError):
        read_checkpoint(tmp_path / 'a.pth')
