"""No command replaces what it did not make or what it reads, and names from elsewhere are printed harmlessly."""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmvit_ext.checkpoints.reading import read_checkpoint
from mmvit_ext.errors import UserError, printable
from mmvit_ext.files import LOCK_NAME, ExistingFileError, atomic_path, fit_name, kept_files, regular_file
from mmvit_ext.inference.images import output_names

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def files(trained: Path) -> tuple[str, str]:
    return str(trained / 'config.py'), str(trained / 'work_dir' / 'iter_2.pth')


def write_image(path: Path, seed: int = 0) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(path)
    return path.read_bytes()


@pytest.mark.parametrize('options', [(), ('--force',)])
@pytest.mark.parametrize('folder', ['overlays', 'labels'])
def test_predictions_never_replace_the_images_they_are_made_of(
    options: tuple[str, ...], folder: str, files: tuple[str, str], run_tool: Run
) -> None:
    before = write_image(Path('d', folder, 'a.png'))
    code, output = run_tool('predict', *files, Path('d', folder), '--out', 'd', '--save-mask', *options)
    assert code == 2
    assert f'd/{folder}/a.png is read by this command' in output
    assert Path('d', folder, 'a.png').read_bytes() == before


def test_predictions_can_be_repeated_and_replace_others_only_if_forced(files: tuple[str, str], run_tool: Run) -> None:
    write_image(Path('photos/a.png'))
    command = ('predict', *files, 'photos', '--out', 'out')
    assert run_tool(*command)[0] == 0
    first = Path('out/overlays/a.png').read_bytes()
    assert run_tool(*command)[0] == 0  # with the same result, which stays
    code, output = run_tool(*command, '--opacity', '0.9')
    assert code == 2
    assert 'out/overlays/a.png exists already' in output
    assert '--force' in output
    assert Path('out/overlays/a.png').read_bytes() == first
    assert run_tool(*command, '--opacity', '0.9', '--force')[0] == 0
    assert Path('out/overlays/a.png').read_bytes() != first


@pytest.mark.parametrize(
    ('tool', 'arguments', 'target'),
    [
        ('test', ('--out', 'mine.json'), 'mine.json'),
        ('test', ('--out', 'mine.pkl'), 'mine.pkl'),
        ('test', ('--out', 'mine'), 'mine/notes'),
        ('test', ('--show-dir', 'mine'), 'mine/notes'),
        ('export', ('mine.onnx',), 'mine.onnx'),
        ('export', ('mine.pt2',), 'mine.pt2'),
    ],
)
def test_results_are_not_written_over_files_of_others(
    tool: str, arguments: tuple[str, ...], target: str, files: tuple[str, str], run_tool: Run
) -> None:
    Path(target).parent.mkdir(exist_ok=True)
    Path(target).write_text('precious')
    code, output = run_tool(tool, *files, *arguments)
    assert code == 2
    assert f'{target.split("/", maxsplit=1)[0]} exists already' in output
    assert 'Traceback' not in output
    assert Path(target).read_text() == 'precious'


def test_curves_and_lists_are_not_written_over_files_of_others(files: tuple[str, str], run_tool: Run) -> None:
    Path('rotation.json').write_text('precious')
    assert run_tool('robustness', 'rotation', *files, '--angles', '0', '--out', '.')[0] == 2
    Path('bad.txt').write_text('precious')
    assert run_tool('check', files[0], '--fix-list', 'bad.txt')[0] == 2
    assert run_tool('check', files[0], '--fix-list', files[0], '--force')[0] == 2
    assert Path('rotation.json').read_text() == Path('bad.txt').read_text() == 'precious'
    assert 'dataset' in Path(files[0]).read_text()
    assert run_tool('check', files[0], '--fix-list', 'bad.txt', '--force')[0] == 0
    assert Path('bad.txt').read_text() != 'precious'


def test_within_a_command_files_of_its_own_may_be_written_again(tmp_path: Path) -> None:
    (tmp_path / 'theirs').write_text('1')
    (tmp_path / 'link').symlink_to('theirs')
    with kept_files([tmp_path / 'theirs'], force=True):
        for text in ('1', '2'):
            with atomic_path(tmp_path / 'ours') as file:
                file.write_text(text)
        for name in ('theirs', 'link'):
            with pytest.raises(ExistingFileError, match='is read'), atomic_path(tmp_path / name) as file:
                file.write_text('2')
    with kept_files():
        with atomic_path(tmp_path / 'theirs') as file:
            file.write_text('1')
        for name in ('theirs', 'link'):
            with pytest.raises(ExistingFileError, match='exists already'), atomic_path(tmp_path / name) as file:
                file.write_text('3')
    with atomic_path(tmp_path / 'ours') as file:
        file.write_text('4')
    assert [(tmp_path / name).read_text() for name in ('theirs', 'ours')] == ['1', '4']
    assert sorted(path.name for path in tmp_path.iterdir()) == ['link', 'ours', 'theirs']


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='this system has no named pipes')
def test_a_folder_with_nothing_but_the_lock_of_a_killed_command_is_empty(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).write_text('process 1')
    with kept_files(outputs=[tmp_path]):
        pass
    (tmp_path / 'a').write_text('a')
    with pytest.raises(ExistingFileError), kept_files(outputs=[tmp_path]):
        pass


def test_a_name_that_begins_with_a_tilde_and_no_user_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / '~$photo.jpg').write_bytes(b'a')
    assert regular_file('~$photo.jpg', 'image') == Path('~$photo.jpg')
    with pytest.raises(UserError, match=r'there is no checkpoint ~nosuch/m.pth'):
        read_checkpoint('~nosuch/m.pth')


def test_a_pipe_or_a_dangling_link_in_the_place_of_a_result_is_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'pipe')
    (tmp_path / 'dangling').symlink_to('nowhere')
    with kept_files():
        for name in ('pipe', 'dangling'):
            with pytest.raises(ExistingFileError), atomic_path(tmp_path / name) as file:
                file.write_text('x')


def test_without_hard_links_nothing_is_replaced_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: object) -> None:
        raise PermissionError(1, 'not supported')

    monkeypatch.setattr(os, 'link', no_link)
    (tmp_path / 'theirs').write_text('1')
    with kept_files():
        with atomic_path(tmp_path / 'ours') as file:
            file.write_text('2')
        with pytest.raises(ExistingFileError), atomic_path(tmp_path / 'theirs') as file:
            file.write_text('2')
    assert (tmp_path / 'theirs').read_text() == '1'
    assert (tmp_path / 'ours').read_text() == '2'


# Names


@pytest.mark.parametrize('stem', ['n' * 243, 'ä' * 121, '\udcff' * 240])
def test_images_with_the_longest_names_are_predicted_and_explained(
    stem: str, files: tuple[str, str], tmp_path: Path, run_tool: Run
) -> None:
    write_image(tmp_path / 'a.png')
    os.rename(tmp_path / 'a.png', os.fsencode(tmp_path / f'{stem}.png'))
    code, output = run_tool('predict', *files, tmp_path / f'{stem}.png', '--out', 'out', '--save-mask')
    assert code == 0, output
    assert os.listdir('out/overlays') == os.listdir('out/labels') == [f'{stem}.png']


def test_names_that_are_too_long_are_cut_and_stay_apart() -> None:
    paths = [Path(f'{"n" * 250}{index}.jpg') for index in range(3)] + [Path('short.jpg'), Path(f'x/{"n" * 250}0.jpg')]
    names = output_names(paths, room=64)
    assert len(set(names)) == 5
    assert names[3] == 'short'
    assert max(len(os.fsencode(name)) for name in names) == 255 - 64
    assert fit_name('ä' * 200, 10).startswith('ä' * 100)


def test_a_file_of_the_longest_name_is_written_atomically(tmp_path: Path) -> None:
    for name in ('n' * 255, f'{"n" * 251}.png', f'x.{"n" * 253}'):
        for durable in (False, True):
            with atomic_path(tmp_path / name, durable=durable) as file:
                file.write_text(name)
        assert (tmp_path / name).read_text() == name


def test_control_characters_in_names_never_reach_the_terminal(
    files: tuple[str, str], run_tool: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    name = 'a\x1b[31m\x07\u202e.png'
    Path(name).write_text('no image')
    code, output = run_tool('predict', *files, name, '--out', 'out\x1b[2J')
    assert code == 2
    for tool, *arguments in (
        ('predict', *files, 'absent\x1b]0;x\x07.png', '--out', 'o'),
        ('predict', *files, '--wrong\x1b[31m', '--out', 'o', name),
        ('test', 'no\x9b31m.py', files[1]),
        ('check', files[0], '--fix-list', 'list\x1b[1m'),
    ):
        with suppress(SystemExit):
            output += run_tool(tool, *arguments)[1]
    output += ''.join(capfd.readouterr())  # of those that argparse has ended
    assert not set(output) & set('\x1b\x07\x9b\u202e')
    assert '\\x1b[31m' in output


def test_letters_of_any_script_are_printed_and_forged_lines_are_not() -> None:
    assert printable('Bär 日本 é.png') == 'Bär 日本 é.png'
    assert str(UserError('a\rb')) == 'a\\rb'
    assert printable('a\nb') == 'a\\nb'
    assert printable('a\nb\x1b', keep='\n') == 'a\nb\\x1b'


# The demo


def test_the_demo_leaves_folders_of_others_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tools import demo

    monkeypatch.setattr(demo, 'run', lambda *_: pytest.fail('nothing may run'))
    (tmp_path / 'pictures').mkdir()
    (tmp_path / 'pictures' / 'wedding.jpg').write_text('precious')
    with pytest.raises(SystemExit, match='pictures was not written by the demo'):
        demo.main(['--out', str(tmp_path), '--data', str(tmp_path / 'data')])
    with pytest.raises(SystemExit, match='is no mini dataset'):
        demo.main(['--out', str(tmp_path / 'new'), '--data', str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ['pictures']
    shutil.rmtree(tmp_path / 'pictures')
    (tmp_path / 'old').mkdir()
    demo.check_folders(tmp_path / 'old', tmp_path / 'data', tmp_path / 'data' / 'coco')
    (tmp_path / 'old' / 'training').mkdir()
    demo.check_folders(tmp_path / 'old', tmp_path / 'data', tmp_path / 'data' / 'coco')  # its own


def test_finished_images_of_a_submission_are_removed_one_by_one(files: tuple[str, str], tmp_path: Path) -> None:
    from mmvit_ext.config.loading import load_config
    from mmvit_ext.submission.run import FinishedImages, write_archive

    out = tmp_path / 'a.zip'
    (tmp_path / 'a.zip.partial' / 'images').mkdir(parents=True)
    (tmp_path / 'a.zip.partial' / 'images' / 'theirs.png').write_text('precious')
    finished = FinishedImages(out, '.txt', load_config(files[0]), files[1], {})
    finished.path('ours').write_text('1')
    finished.remove()
    assert [path.name for path in (tmp_path / 'a.zip.partial').rglob('*')] == ['images', 'theirs.png']
    for content in (b'1', b'1'):
        write_archive(out, [('x', [content])])
    with pytest.raises(ExistingFileError):
        write_archive(out, [('x', [b'2'])])
