"""Which checkpoint ``--resume`` takes when files are cut off, damaged, foreign or dangerous."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from mmvit_ext.checkpoints.newest import newest_checkpoint, training_position
from mmvit_ext.checkpoints.reading import checkpoint_damage
from mmvit_ext.errors.user_error import UserError


def write(folder: Path, name: str, iteration: int, run: str | None = 'ours', **more: object) -> Path:
    folder.mkdir(exist_ok=True)
    content = {
        'meta': {'epoch': 0, 'iter': iteration, **({'run_id': run} if run else {})},
        'state_dict': {'weight': torch.arange(5000.0)},
        'message_hub': {},
        'optimizer': {},
        **more,
    }
    torch.save(content, folder / name)
    return folder / name


def cut(path: Path, share: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def test_the_highest_iteration_wins_not_the_latest_date_or_the_note(tmp_path: Path) -> None:
    newest = write(tmp_path, 'iter_10.pth', 10)
    older = write(tmp_path, 'iter_9.pth', 9)
    os.utime(newest, (1, 1))
    (tmp_path / 'last_checkpoint').write_text(str(older))
    found = newest_checkpoint(tmp_path)
    assert (found.path, found.iteration, found.notes()) == (str(newest), 10, [])


@pytest.mark.parametrize('damage', ['cut', 'empty', 'zeros in the middle', 'text'])
def test_a_damaged_last_checkpoint_is_passed_over_and_named(damage: str, tmp_path: Path) -> None:
    older = write(tmp_path, 'iter_1.pth', 1)
    last = write(tmp_path, 'iter_2.pth', 2)
    (tmp_path / 'last_checkpoint').write_text(str(last))
    if damage == 'cut':
        cut(last)
    elif damage == 'empty':
        last.write_bytes(b'')
    elif damage == 'text':
        last.write_text('<html>not found</html>')
    else:  # as after a power cut: the directory of the archive is there, not all of its content
        content = bytearray(last.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 100] = bytes(100)
        last.write_bytes(content)
    assert checkpoint_damage(last) is not None
    found = newest_checkpoint(tmp_path)
    assert (found.path, found.iteration) == (str(older), 1)
    [note] = found.notes()
    assert str(last) in note
    assert f'resuming from the older {older} of iteration 1' in note


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path, 'iter_2.pth', 2)
    whole = path.read_bytes()
    assert checkpoint_damage(path) is None
    for size in [*range(0, len(whole), 1013), len(whole) - 1]:
        path.write_bytes(whole[:size])
        assert checkpoint_damage(path) is not None, size


def test_weights_without_an_optimizer_and_other_files_are_left_alone(tmp_path: Path) -> None:
    last = write(tmp_path, 'iter_2.pth', 2)
    torch.save({'meta': {'iter': 9}, 'state_dict': {}, 'message_hub': {}}, tmp_path / 'best_mIoU_iter_9.pth')
    (tmp_path / 'notes.pth').write_text('mine')
    (tmp_path / '.iter_3.pth.partial').write_bytes(b'x')
    found = newest_checkpoint(tmp_path)
    assert (found.path, found.notes()) == (str(last), [])


def test_an_older_damaged_file_is_no_reason_for_a_note(tmp_path: Path) -> None:
    broken = write(tmp_path, 'iter_1.pth', 1)
    cut(broken)
    os.utime(broken, (1, 1))
    last = write(tmp_path, 'iter_2.pth', 2)
    assert newest_checkpoint(tmp_path).notes() == []
    assert newest_checkpoint(tmp_path).path == str(last)


def test_no_checkpoint_at_all_is_no_error_but_only_damaged_ones_are(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / 'absent').path is None
    assert newest_checkpoint(tmp_path).path is None
    cut(write(tmp_path, 'iter_1.pth', 1))
    with pytest.raises(UserError, match=r'iter_1\.pth .*start from the beginning'):
        newest_checkpoint(tmp_path)


def test_a_note_that_leads_nowhere_is_an_error(tmp_path: Path) -> None:
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_8.pth'))
    with pytest.raises(UserError, match=r'iter_8\.pth is not there or no checkpoint'):
        newest_checkpoint(tmp_path)


def test_an_empty_note_does_no_harm(tmp_path: Path) -> None:
    last = write(tmp_path, 'iter_2.pth', 2)
    (tmp_path / 'last_checkpoint').write_text('')
    assert newest_checkpoint(tmp_path).path == str(last)


def test_checkpoints_in_the_folder_of_the_hook_are_found(tmp_path: Path) -> None:
    write(tmp_path / 'runs', 'iter_1.pth', 1)
    third = write(tmp_path / 'third', 'iter_3.pth', 3)
    assert newest_checkpoint(tmp_path / 'runs', [tmp_path / 'third']).path == str(third)


def test_a_copied_run_resumes_from_its_own_files_and_not_from_those_that_its_note_names(tmp_path: Path) -> None:
    original = write(tmp_path / 'original', 'iter_2.pth', 2)
    (tmp_path / 'original' / 'last_checkpoint').write_text(str(original))
    (tmp_path / 'original' / 'run_id').write_text('ours')
    shutil.copytree(tmp_path / 'original', tmp_path / 'copy')
    write(tmp_path / 'original', 'iter_9.pth', 9)
    assert newest_checkpoint(tmp_path / 'copy').path == str(tmp_path / 'copy' / 'iter_2.pth')
    (tmp_path / 'copy' / 'iter_2.pth').unlink()
    with pytest.raises(UserError, match=r'iter_2\.pth is not there .*pass --resume FILE'):
        newest_checkpoint(tmp_path / 'copy')


@pytest.mark.parametrize(
    'noted', ['/etc', '..', '.', 'https://example.org/iter_5.pth', 's3://elsewhere/run/iter_5.pth']
)
def test_a_note_that_leads_out_of_the_run_is_not_followed(noted: str, tmp_path: Path) -> None:
    (tmp_path / 'last_checkpoint').write_text(noted)
    with pytest.raises(UserError, match=r'last_checkpoint names .*--resume'):
        newest_checkpoint(tmp_path, ['s3://bucket/runs'])


def test_a_note_of_a_file_on_the_runs_own_server_is(tmp_path: Path) -> None:
    (tmp_path / 'last_checkpoint').write_text('s3://bucket/runs/iter_5.pth')
    assert newest_checkpoint(tmp_path, ['s3://bucket/runs']).path == 's3://bucket/runs/iter_5.pth'


def no_file(path: Path, kind: str) -> None:
    if kind == 'folder':
        path.mkdir()
    elif kind == 'device':
        path.symlink_to('/dev/zero')
    else:
        os.mkfifo(path)


@pytest.mark.parametrize('kind', ['pipe', 'folder', 'device'])
def test_a_note_that_is_no_file_is_named_and_never_waited_for(kind: str, tmp_path: Path) -> None:
    write(tmp_path, 'iter_1.pth', 1)
    for name in ('last_checkpoint', 'run_id'):
        no_file(tmp_path / name, kind)
        with pytest.raises(UserError, match=rf'{name} is a .*: expected a regular file'):
            newest_checkpoint(tmp_path)
        (tmp_path / name).rmdir() if kind == 'folder' else (tmp_path / name).unlink()
    no_file(tmp_path / 'iter_9.pth', 'pipe')
    assert newest_checkpoint(tmp_path).path == str(tmp_path / 'iter_1.pth')


@pytest.mark.parametrize('told_by', ['run_id', 'last_checkpoint', 'its name'])
def test_another_runs_checkpoint_is_not_taken_however_far_it_is(told_by: str, tmp_path: Path) -> None:
    own = write(tmp_path, 'iter_4.pth', 4)
    write(
        tmp_path,
        'theirs.pth' if told_by == 'its name' else 'iter_900.pth',
        900,
        run=None if told_by == 'its name' else 'theirs',
    )
    if told_by != 'its name':
        (tmp_path / told_by).write_text('ours' if told_by == 'run_id' else str(own))
    assert newest_checkpoint(tmp_path).path == str(own)


def test_checkpoints_of_two_runs_and_nothing_else_are_for_the_user_to_choose(tmp_path: Path) -> None:
    write(tmp_path, 'iter_4.pth', 4)
    write(tmp_path, 'iter_9.pth', 9, run='theirs')
    with pytest.raises(UserError, match=r'iter_4\.pth, iter_9\.pth are of different runs: pass --resume FILE'):
        newest_checkpoint(tmp_path)
    (tmp_path / 'run_id').write_text('a third one')
    with pytest.raises(UserError, match=r'no checkpoint of this run .*iter_9\.pth.*pass --resume FILE'):
        newest_checkpoint(tmp_path)
    assert newest_checkpoint(tmp_path, restarted=True).path is None


def test_names_that_the_hook_does_not_give_come_last(tmp_path: Path) -> None:
    renamed = write(tmp_path, 'mine.pth', 900)
    assert newest_checkpoint(tmp_path).path == str(renamed)
    own = write(tmp_path, 'iter_4.pth', 4)
    assert newest_checkpoint(tmp_path).path == str(own)
    tenth = write(tmp_path, 'step-10.pth', 10)
    (tmp_path / 'last_checkpoint').write_text('step-7.pth')  # a filename_tmpl of the config
    assert newest_checkpoint(tmp_path).path == str(tenth)


def test_files_without_an_id_are_taken_by_their_name_where_there_are_no_others_which_is_said(tmp_path: Path) -> None:
    old = write(tmp_path, 'iter_5.pth', 5, run=None)
    write(tmp_path, 'downloaded.pth', 70, run=None)
    found = newest_checkpoint(tmp_path)
    assert found.path == str(old)
    assert 'has no id of its run' in found.notes()[0]
    own = write(tmp_path, 'iter_3.pth', 3)
    assert newest_checkpoint(tmp_path).path == str(own)


def test_a_sharded_checkpoint_is_left_to_its_library(tmp_path: Path) -> None:
    (tmp_path / 'iter_3.pth').mkdir()
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_3.pth'))
    assert newest_checkpoint(tmp_path).path == str(tmp_path / 'iter_3.pth')


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_looking_at_a_checkpoint_runs_nothing_of_it(tmp_path: Path) -> None:
    path = write(tmp_path, 'iter_4.pth', 4, extra=Evil(tmp_path / 'attacked'), numpy=torch.zeros(3).numpy())
    assert training_position(path) == (4, 'ours')
    assert newest_checkpoint(tmp_path).path == str(path)
    assert not (tmp_path / 'attacked').exists()
