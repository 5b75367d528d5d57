"""From an exception to a sentence and an exit code."""

import errno
from collections.abc import Sequence

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from mmvit_ext.cli.command import run_command
from mmvit_ext.errors.failures import describe_failure
from mmvit_ext.errors.type_names import nearest
from mmvit_ext.errors.user_error import UserError, same_on_every_process


class Broken(Dataset):
    """Raises what it was given."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> torch.Tensor:
        raise self.error


def fail(error: BaseException) -> Sequence[str]:
    def command(argv: Sequence[str] | None) -> int:
        raise error

    return command


@pytest.mark.parametrize('workers', [0, 1])
def test_the_sentence_survives_a_data_loader_worker(workers: int) -> None:
    sentence = 'the label map a: b.png has values outside the 3 classes: 9 (4 px); expected 0 to 2'
    with pytest.raises(UserError) as caught:
        next(iter(DataLoader(Broken(UserError(sentence)), num_workers=workers)))
    assert str(caught.value) == sentence
    assert describe_failure(caught.value) == sentence


@pytest.mark.parametrize('workers', [0, 1])
def test_a_truncated_image_of_another_loader_is_described_from_a_worker(workers: int) -> None:
    error = OSError('image file is truncated (3 bytes not processed)')
    with pytest.raises(OSError, match='truncated') as caught:
        next(iter(DataLoader(Broken(error), num_workers=workers)))
    assert 'mmvit_ext.LoadImageFromFile' in str(describe_failure(caught.value))


def test_a_line_break_does_not_make_two_sentences() -> None:
    assert str(UserError('first\n  second')) == 'first second'


@pytest.mark.parametrize(
    ('error', 'part'),
    [
        (FileNotFoundError(errno.ENOENT, 'No such file or directory', 'a/b.txt'), 'a/b.txt'),
        (OSError(errno.ENOSPC, 'No space left on device', 'iter.pth'), 'disk is full'),
        (KeyError('Foo is not in the mmengine::hook registry. Please check'), "the type 'Foo' is no registered hook"),
        (
            TypeError("ATMHead.__init__() got an unexpected keyword argument 'depht'"),
            "ATMHead takes no argument 'depht'",
        ),
        (AssertionError('backbone. is not in the pretrained model'), "begins with 'backbone.'"),
        (AssertionError('failed to load image: x.jpg'), 'x.jpg is not an image'),
        (RuntimeError('CUDA out of memory. Tried to allocate 2 GiB'), 'lower train_dataloader.batch_size'),
        (RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed.'), 'num_workers'),
        (RuntimeError('The server socket has failed to listen. EADDRINUSE'), 'PORT'),
        (ModuleNotFoundError("No module named 'mmcv._ext'"), 'mmvit_ext.doctor'),
    ],
)
def test_known_failures_of_the_libraries_get_a_remedy(error: Exception, part: str) -> None:
    sentence = describe_failure(error)
    assert sentence is not None
    assert part in sentence
    assert '\n' not in sentence


def test_an_unknown_failure_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(fail(ZeroDivisionError('division by zero')), [], name='tool') == 1
    captured = capsys.readouterr()
    assert 'Traceback' in captured.err
    assert 'tool: error' not in captured.err


def test_a_check_of_this_package_is_a_sentence_but_its_bug_is_not() -> None:
    from mmvit_ext.inference.drawing import draw_overlay

    with pytest.raises(ValueError, match='same size') as raised:
        draw_overlay(torch.zeros(2, 2, 3).numpy(), torch.zeros(3, 2).numpy(), [], [])
    assert describe_failure(raised.value) is not None
    with pytest.raises((TypeError, AttributeError)) as bug:
        draw_overlay(None, None, [], [])  # type: ignore[arg-type]
    assert describe_failure(bug.value) is None


def test_exit_codes_and_what_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda argv: None, [], name='tool') == 0
    assert run_command(fail(UserError('do this')), [], name='tool') == 2
    assert capsys.readouterr().err == 'tool: error: do this\n'
    assert run_command(fail(UserError('do this')), ['--traceback'], name='tool') == 2
    assert 'Traceback' in capsys.readouterr().err
    assert run_command(fail(KeyboardInterrupt()), [], name='tool') == 130
    assert 'interrupted' in capsys.readouterr().err


def test_an_error_that_all_processes_share_is_written_once_per_machine_and_any_other_by_each(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(argv: Sequence[str] | None) -> int:
        with same_on_every_process():
            raise UserError('no such folder')

    for name, value in (('LOCAL_RANK', '3'), ('RANK', '11'), ('WORLD_SIZE', '16')):
        monkeypatch.setenv(name, value)
    assert run_command(check, [], name='tool') == 2
    assert capsys.readouterr().err == ''
    assert run_command(fail(UserError('bad image')), [], name='tool') == 2
    assert capsys.readouterr().err == 'tool [rank 11]: error: bad image\n'
    monkeypatch.setenv('LOCAL_RANK', '0')
    assert run_command(check, [], name='tool') == 2
    assert capsys.readouterr().err == 'tool [rank 11]: error: no such folder\n'


def test_nearest_names_ignore_case() -> None:
    assert nearest('atmhead', ['FCNHead', 'ATMHead', 'VisionTransformer'])[0] == 'ATMHead'
    assert nearest('xyz', ['FCNHead']) == []
