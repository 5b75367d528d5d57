"""Checkpoint files, atomic writing, mixed precision on a CPU."""

from pathlib import Path

import pytest
import torch

from mmvit_ext.checkpoints.reading import check_checkpoint_file, extract_state_dict, read_checkpoint
from mmvit_ext.engine.optimizers import CPUAmpOptimWrapper
from mmvit_ext.errors.user_error import UserError
from mmvit_ext.files import atomic_path


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / 'folder' / 'result.txt'
    with atomic_path(target) as file:
        file.write_text('whole')
        assert not target.exists()
    assert target.read_text() == 'whole'
    with pytest.raises(TypeError), atomic_path(target) as file:
        file.write_text(7)  # type: ignore[arg-type]
    assert target.read_text() == 'whole'
    assert list(target.parent.iterdir()) == [target]


def test_a_cut_off_checkpoint_is_found_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / 'a.pth'
    torch.save({'a': torch.zeros(1000)}, path)
    check_checkpoint_file(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=r'a\.pth is cut off'):
        check_checkpoint_file(path)


def test_a_checkpoint_of_the_old_format_is_accepted(tmp_path: Path) -> None:
    torch.save({'a': torch.arange(3)}, tmp_path / 'a.pth', _use_new_zipfile_serialization=False)
    assert torch.equal(read_checkpoint(tmp_path / 'a.pth')['a'], torch.arange(3))


def test_an_address_is_not_looked_for_on_the_disk() -> None:
    check_checkpoint_file('https://example.org/a.pth')


def test_parameters_are_found_in_their_wrappings(tmp_path: Path) -> None:
    tensor = torch.zeros(1)
    for content in ({'a': tensor}, {'state_dict': {'module.a': tensor}}, {'model': {'a': tensor}, 'epoch': 1}):
        assert list(extract_state_dict(content, 'x.pth')) == ['a']
    with pytest.raises(UserError, match=r'x\.pth holds no parameters'):
        extract_state_dict({'epoch': 1}, 'x.pth')


def test_cpu_amp_computes_in_bfloat16_and_keeps_float32_weights() -> None:
    model = torch.nn.Linear(4, 4)
    wrapper = CPUAmpOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    before = model.weight.detach().clone()
    with wrapper.optim_context(model):
        output = model(torch.ones(1, 4))
    assert output.dtype == torch.bfloat16
    wrapper.update_params(output.float().sum())
    assert model.weight.dtype == torch.float32
    assert not torch.equal(model.weight, before)
