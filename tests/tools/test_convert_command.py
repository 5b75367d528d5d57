"""``tools/convert_checkpoint.py``: what it writes and what it leaves alone. The conversions have their own tests."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mmvit_ext.checkpoints import convert as checkpoints

Run = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def renaming(monkeypatch: pytest.MonkeyPatch) -> None:
    """A method 'renaming' that writes 'new.' before each name and refuses anything else than 'old.'."""

    def rename(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        unknown = [key for key in state if not key.startswith('old.')]
        if unknown:
            raise ValueError(f'no rule for {unknown}')
        return {key.replace('old.', 'new.'): value for key, value in state.items()}

    monkeypatch.setattr(checkpoints, 'METHODS', {**checkpoints.METHODS, 'renaming': rename})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / 'source.pth'
    torch.save({'state_dict': {'module.old.weight': torch.arange(3.0)}, 'meta': {'epoch': 1}}, path)
    return path


def test_the_result_holds_the_renamed_tensors_and_where_they_came_from(source: Path, run_tool: Run) -> None:
    code, _ = run_tool('convert_checkpoint', 'renaming', source, 'folder/result.pth')
    assert code == 0
    content = torch.load('folder/result.pth', weights_only=True)
    assert list(content['state_dict']) == ['new.weight']
    assert torch.equal(content['state_dict']['new.weight'], torch.arange(3.0))
    assert content['meta']['source'] == 'source.pth'
    assert content['meta']['method'] == 'renaming'


def test_an_existing_file_is_overwritten_with_force_only(source: Path, run_tool: Run) -> None:
    Path('result.pth').write_text('precious')
    code, output = run_tool('convert_checkpoint', 'renaming', source, 'result.pth')
    assert code == 2
    assert 'result.pth exists already' in output
    assert Path('result.pth').read_text() == 'precious'
    assert run_tool('convert_checkpoint', 'renaming', source, 'result.pth', '--force')[0] == 0
    assert run_tool('convert_checkpoint', 'renaming', source, source, '--force')[0] == 2


def test_a_foreign_parameter_is_named_and_nothing_is_written(source: Path, run_tool: Run) -> None:
    torch.save({'state_dict': {'strange.weight': torch.zeros(1)}}, source)
    code, output = run_tool('convert_checkpoint', 'renaming', source, 'result.pth')
    assert code == 2
    assert 'strange.weight' in output
    assert 'source.pth' in output
    assert [path.name for path in Path().iterdir()] == ['source.pth']


def test_a_source_without_parameters_is_named(source: Path, run_tool: Run) -> None:
    torch.save({'epoch': 3}, source)
    code, output = run_tool('convert_checkpoint', 'renaming', source, 'result.pth')
    assert code == 2
    assert 'no parameters (its keys: epoch)' in output


def test_differences_are_added_to_a_base(source: Path, run_tool: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a method that was published so; the keys have tests of their own."""
    methods = {**checkpoints.METHODS, 'eomt': lambda state: {'backbone.net.norm.bias': state['old.weight']}}
    monkeypatch.setattr(checkpoints, 'METHODS', methods)
    torch.save({'norm.bias': torch.ones(3)}, 'base.pth')
    assert run_tool('convert_checkpoint', 'eomt', source, 'result.pth', '--base', 'base.pth')[0] == 0
    content = torch.load('result.pth', weights_only=True)
    assert torch.equal(content['state_dict']['backbone.net.norm.bias'], torch.arange(3.0) + 1)
    code, output = run_tool('convert_checkpoint', 'eomt', source, 'other.pth', '--base', 'absent.pth')
    assert code == 2
    assert 'there is no --base absent.pth' in output
    assert 'can be converted' not in output
    torch.save({'norm.bias': torch.ones(4)}, 'base.pth')
    code, output = run_tool('convert_checkpoint', 'eomt', source, 'other.pth', '--base', 'base.pth')
    assert code == 2
    assert '--base base.pth cannot be added' in output
    assert 'the base is another network' in output
    code, output = run_tool('convert_checkpoint', 'renaming', source, 'other.pth', '--base', 'base.pth')
    assert code == 2
    assert '--base goes with eomt and eomt-detector' in output
