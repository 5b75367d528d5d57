"""``mmvit VERB``: its help, its refusals, and the scripts of ``tools/`` that are one verb each."""

import ast
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import gpu
from mmvit_ext.cli import models
from mmvit_ext.cli.main import SCRIPTS, VERBS, run, run_verb
from mmvit_ext.config.zoo.backbones import BACKBONES

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize('verb', VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run([verb, '--help'])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert f'usage: mmvit {verb} ' in text  # some libraries print a line when they are imported
    assert verb == 'doctor' or text.count(f'mmvit {verb} ') > 1  # an example


def test_the_help_names_every_verb_and_the_module_is_the_command(tmp_path: Path) -> None:
    command = [sys.executable, '-m', 'mmvit_ext', '--help']
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.startswith('usage: mmvit VERB')
    assert all(f'\n  {verb} ' in done.stdout for verb in VERBS)
    assert not done.stderr


def test_the_help_waits_for_no_library() -> None:
    script = """
import sys
from mmvit_ext.cli.main import run
assert run(['--help']) == run(['--version']) == 0
assert run(['nothing']) == 2
heavy = {'torch', 'mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain', 'numpy'} & set(sys.modules)
assert not heavy, heavy
"""
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    subprocess.run([sys.executable, '-c', script], env=env, check=True, capture_output=True)


@pytest.mark.parametrize(
    ('argv', 'part'), [(['trian'], 'did you mean train?'), (['fly'], 'expected one of train, test'), ([], 'no verb')]
)
def test_an_unknown_verb_is_one_sentence_and_exit_code_2(
    argv: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ''
    (line,) = captured.err.splitlines()
    assert line.startswith('mmvit: error: ')
    assert part in line


def test_a_script_and_its_verb_say_the_same_under_their_own_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(['check', 'absent.py']) == 2
    verb = capsys.readouterr().err
    assert run_verb('check', ['absent.py']) == 2
    script = capsys.readouterr().err
    assert verb.startswith('mmvit check: error: there is no config file absent.py')
    assert script == verb.replace('mmvit check', 'check_dataset')


@pytest.mark.parametrize('verb', [verb for verb in VERBS if verb != 'doctor'])
def test_a_script_does_nothing_but_call_its_verb(verb: str) -> None:
    path = ROOT / 'tools' / f'{SCRIPTS.get(verb, verb)}.py'
    docstring, *code = ast.parse(path.read_text(encoding='utf-8')).body
    assert isinstance(docstring, ast.Expr)
    assert [ast.unparse(statement) for statement in code] == [
        'from mmvit_ext.cli.main import run_tool',
        f"if __name__ == '__main__':\n    run_tool('{verb}')",
    ]


# models


def test_without_a_pattern_every_backbone_is_listed_and_none_is_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, '_count', lambda name: pytest.fail(f'{name} was counted'))
    assert run(['models']) == 0
    text = capsys.readouterr().out
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert set(BACKBONES) <= set(rows)
    assert 'GFLOPs' not in rows['name']
    assert 'DINOv3 licence' in rows['dinov3-s']
    assert rows['p2t-t'].split()[1:3] == ['cls', BACKBONES['p2t-t'].weights]
    assert 'linear_BACKBONE (seg):' in text
    assert '`mmvit models PATTERN` counts' in text


def test_models_of_a_pattern_are_counted_unless_that_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip('mmpretrain')
    assert run(['models', 'nest-[ts]']) == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert set(rows) - {'counting'} >= {'nest-t', 'nest-s', 'name'}
    assert rows['nest-t'][1:5] == ['cls', '17.1', 'M', '5.8']  # those of tests/config/test_zoo_names.py
    assert run(['models', 'nest-[ts]', '--no-count']) == 0
    text = capsys.readouterr().out
    assert 'nest-s' in text
    assert '17.1' not in text
    assert 'parameters' not in text


def test_a_pattern_without_a_model_is_answered_with_close_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(['models', 'segvit_vit-small']) == 2
    assert 'did you mean segvit_vit-s' in capsys.readouterr().err


# bench


def test_waiting_for_the_loader_counts_in_the_part_data(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[Tensor, Tensor]] = []

    @contextmanager
    def bursts(device: torch.device, toy: bool) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            while True:
                time.sleep(0.5 if len(given) % 3 == 2 else 0)
                given.append((torch.randn(2, 3, 64, 64), torch.tensor([0, 1])))
                yield given[-1]

        yield batches()

    monkeypatch.setattr(gpu, 'loader_batches', bursts)
    session = gpu.Session(torch.device('cpu'), True, float('inf'))
    gpu.measure_data(session)
    (row,) = session.rows
    assert len(given) == 3
    assert row.milliseconds > 250
    assert row.images_per_second == pytest.approx(2000 / row.milliseconds)
