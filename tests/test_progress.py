"""Long work shows how far it is, where there is a terminal, and nothing elsewhere."""

import logging
import sys
from types import SimpleNamespace

import pytest

from mmvit_ext.engine.hooks.progress import ProgressHook
from mmvit_ext.machine import progress_bar


@pytest.mark.parametrize('terminal', [True, False])
def test_a_bar_counts_on_a_terminal_only(terminal, monkeypatch, capsys):
    monkeypatch.setenv('FORCE_COLOR' if terminal else 'NO_COLOR', '1')  # rich takes the first for a terminal
    with progress_bar('predicting') as bar:
        assert list(bar.track(range(3))) == [0, 1, 2]
    said = capsys.readouterr().err
    assert ('predicting' in said and '3/3' in said) if terminal else said == ''


@pytest.mark.parametrize('terminal', [True, False])
@pytest.mark.parametrize('stage', ['train', 'test'])
def test_training_and_testing_count_their_iterations(stage, terminal, monkeypatch, capsys):
    monkeypatch.setenv('FORCE_COLOR' if terminal else 'NO_COLOR', '1')
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, 'isatty', lambda: terminal)
    runner = SimpleNamespace(max_iters=7, iter=4, test_dataloader=range(7), logger=logging.getLogger('progress'))
    with ProgressHook() as hook:
        getattr(hook, f'before_{stage}')(runner)
        getattr(hook, f'after_{stage}_iter')(runner, 4)
    said = capsys.readouterr().err
    assert (f'{stage}ing' in said and '5/7' in said) if terminal else said == ''
