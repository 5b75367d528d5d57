"""Checkpoints whose weights would not arrive, another run's and another kind's, through the commands that load one."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mmvit_ext.checkpoints.newest import training_position

Run = Callable[..., tuple[int, str]]
Config = Callable[..., str]

COMMANDS: dict[str, list[str]] = {
    'test': ['test', '{config}', '{file}'],
    'predict': ['predict', '{config}', '{file}', '{image}', '--out', 'out'],
    'export': ['export', '{config}', '{file}', 'out.pt2', '--size', '32', '32'],
    'explain': ['explain', 'tokens', '{config}', '{file}', '{image}', '--out', 'out'],
    'submit': ['submit', 'ade20k', '{config}', '{file}', '--images', '{images}', '--out', 'out.zip'],
    'convert': ['convert_checkpoint', 'vit', '{file}', 'out.pth'],
    'load_from': ['train', '{config}', '--work-dir', 'out', '--cfg-options', 'load_from={file}'],
    'resume': ['train', '{config}', '--work-dir', 'out', '--resume', '{file}'],
    'init_cfg': ['train', '{pretrained}', '--work-dir', 'out'],
}


@pytest.mark.parametrize('command', COMMANDS)
def test_weights_that_are_not_finite_are_refused_by_every_command(
    command: str, trained: Path, run_tool: Run, tmp_path: Path
) -> None:
    content = torch.load(trained / 'work_dir' / 'iter_2.pth', weights_only=False)
    content['state_dict']['backbone.pos_embed'][0, 1] = float('nan')
    torch.save(content, tmp_path / 'diverged.pth')
    pretrained = tmp_path / 'pretrained.py'
    init = f"init_cfg=dict(type='Pretrained', checkpoint={str(tmp_path / 'diverged.pth')!r}, prefix='backbone.')"
    pretrained.write_text((trained / 'config.py').read_text() + f'\nmodel["backbone"].update({init})\n')
    places = {
        'config': trained / 'config.py',
        'file': 'diverged.pth',
        'pretrained': pretrained,
        'image': trained / 'data' / 'images' / 'image_0.png',
        'images': trained / 'data' / 'images',
    }
    code, output = run_tool(*(part.format(**places) for part in COMMANDS[command]))
    assert code == 2
    assert 'diverged.pth cannot be used, its parameter' in output
    assert 'pos_embed has values that are not finite' in output
    assert not [*tmp_path.glob('out*/*.p[nt]*'), *tmp_path.glob('out.*')]


def test_a_resumed_state_of_another_form_is_told(trained: Path, run_tool: Run, tmp_path: Path) -> None:
    content = torch.load(trained / 'work_dir' / 'iter_1.pth', weights_only=False)
    odd: dict[str, Any] = {'iter': {**content['meta'], 'iter': 'first'}, 'message_hub': content['meta']}
    for name, meta in odd.items():
        changed = {**content, 'meta': meta} if name == 'iter' else {**content, 'message_hub': [1]}
        torch.save(changed, tmp_path / 'iter_1.pth')
        code, output = run_tool('train', trained / 'config.py', '--work-dir', 'out', '--resume', 'iter_1.pth')
        assert code == 2
        assert f'cannot be resumed, it has no {name}' in output


def test_resume_takes_this_runs_checkpoint_and_leaves_anothers_in_the_folder(
    make_config: Config, run_tool: Run, tmp_path: Path
) -> None:
    hook = "default_hooks['checkpoint']['type'] = 'mmvit_ext.AtomicCheckpointHook'"
    config = make_config(hook, "default_hooks['checkpoint']['max_keep_ckpts'] = 1")
    options = ('--cfg-options', 'train_cfg.max_iters=1')
    for folder in ('runs', 'others'):
        assert run_tool('train', config, '--work-dir', folder, *options)[0] == 0
    (_, ours), (_, theirs) = (training_position(Path(folder) / 'iter_1.pth') for folder in ('runs', 'others'))
    assert ours != theirs
    content = torch.load('others/iter_1.pth', weights_only=False)
    content['meta']['iter'] = 900
    torch.save(content, 'runs/iter_900.pth')
    shutil.copytree('runs', 'copied')
    code, output = run_tool('train', config, '--work-dir', 'copied', '--resume')
    assert code == 0
    assert 'resumed epoch: 0, iter: 1' in output
    assert training_position('copied/iter_2.pth') == (2, ours)
    assert sorted(path.name for path in Path('copied').glob('iter_*.pth')) == ['iter_2.pth', 'iter_900.pth']
    assert sorted(path.name for path in Path('runs').glob('iter_*.pth')) == ['iter_1.pth', 'iter_900.pth']


def test_safetensors_are_tested_like_the_checkpoint_they_were_made_of(trained: Path, run_tool: Run) -> None:
    state = torch.load(trained / 'work_dir' / 'iter_2.pth', weights_only=False)['state_dict']
    save_file({name: value.contiguous() for name, value in state.items()}, 'model.safetensors')
    lines = []
    for file, out in ((trained / 'work_dir' / 'iter_2.pth', 'first.json'), ('model.safetensors', 'second.json')):
        code, _ = run_tool('test', trained / 'config.py', file, '--out', out)
        assert code == 0
        lines.append(Path(out).read_text().split('"data_time"')[0])
    assert lines[0] == lines[1]
    code, output = run_tool('train', trained / 'config.py', '--work-dir', 'out', '--resume', 'model.safetensors')
    assert code == 2
    assert 'cannot be resumed, it has no meta, message_hub, optimizer' in output
