"""What is kept of an unfinished run, by itself."""

from pathlib import Path

import pytest
from mmengine.config import Config

from mmvit_ext.errors.user_error import UserError
from mmvit_ext.submission.run import FinishedImages, predict_missing


@pytest.fixture
def finished(tmp_path: Path) -> FinishedImages:
    (tmp_path / 'model.pth').write_bytes(b'weights')
    cfg = Config({'model': {'type': 'Net'}})
    return FinishedImages(tmp_path / 'out.zip', '.txt', cfg, tmp_path / 'model.pth', {'--tta': False})


def test_images_whose_results_would_have_one_name_are_refused(finished: FinishedImages) -> None:
    with pytest.raises(UserError, match=r'a/1\.jpg and b/1\.png have the same name without suffix'):
        predict_missing([Path('a/1.jpg'), Path('b/1.png')], finished, lambda path, file: None, progress=False)


def test_a_result_that_was_not_completed_is_not_kept(finished: FinishedImages) -> None:
    """Also not as a part: the next run would take it for the whole."""

    def write(path: Path, file: Path) -> None:
        file.write_text('half')
        if path.stem == '2':
            raise ValueError('no more')

    outcome = predict_missing([Path('1.jpg'), Path('2.jpg')], finished, write, progress=False)
    assert [path for path, _ in outcome.failed] == [Path('2.jpg')]
    assert [path.name for path in finished.path('1').parent.iterdir()] == ['1.txt']


def test_the_results_keep_their_image_when_others_are_like_named(finished: FinishedImages) -> None:
    """Results are looked for by the image's own name, whatever else is predicted with it."""
    paths = [Path('a/A.jpg'), Path('a/a.jpg')]
    outcome = predict_missing(paths, finished, lambda path, file: file.write_text(path.stem), progress=False)
    assert [path.read_text() for path in outcome.written] == ['A', 'a']


def _another(tmp_path: Path) -> FinishedImages:
    (tmp_path / 'other.pth').write_bytes(b'other weights')
    cfg = Config({'model': {'type': 'Net'}})
    return FinishedImages(tmp_path / 'out.zip', '.txt', cfg, tmp_path / 'other.pth', {'--tta': False})


@pytest.mark.parametrize('record', ['kept', 'removed'])
def test_images_that_are_left_are_never_another_models(finished: FinishedImages, tmp_path: Path, record: str) -> None:
    """Those of images that the last run was not asked for, and those whose record was removed."""
    paths = [Path('1.jpg'), Path('2.jpg')]
    predict_missing(paths, finished, lambda path, file: file.write_text(path.stem), progress=False)
    if record == 'removed':
        (finished.folder / 'run.json').unlink()
    else:
        finished.used.remove(finished.folder / 'images/2.txt')
        finished.remove()
    with pytest.raises(UserError, match=r'holds images that were finished with another .*checkpoint'):
        _another(tmp_path)


def test_nothing_is_left_where_all_images_were_used(finished: FinishedImages, tmp_path: Path) -> None:
    predict_missing([Path('1.jpg')], finished, lambda path, file: file.write_text('a'), progress=False)
    finished.remove()
    assert not any(finished.folder.iterdir())
    _another(tmp_path)
