"""``tools/predict.py``: pictures, label maps, names, and what it does with images it cannot read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmvit_ext.config.loading import load_config
from mmvit_ext.inference import predictor as inference

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def files(trained: Path) -> tuple[str, str]:
    return str(trained / 'config.py'), str(trained / 'work_dir' / 'iter_2.pth')


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images of several kinds and sizes, two of one stem."""
    folder = tmp_path / 'photos'
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / 'a.jpg')
    Image.fromarray(pixels).save(folder / 'a.png')
    Image.fromarray(pixels[..., 0]).save(folder / 'grey.png')
    Image.fromarray(pixels).convert('RGBA').save(folder / 'transparent.png')
    Image.fromarray(pixels).convert('CMYK').save(folder / 'cmyk.jpg')
    Image.fromarray(pixels[:3, :5]).save(folder / 'small.png')
    (folder / 'notes.txt').write_text('no image')
    return folder


def test_a_folder_gives_a_picture_and_a_label_map_per_image(
    files: tuple[str, str], photos: Path, run_tool: Run
) -> None:
    code, output = run_tool('predict', *files, photos, '--out', 'out', '--save-mask', '--no-legend')
    assert code == 0, output
    names = {'a_jpg', 'a_png', 'grey', 'transparent', 'cmyk', 'small'}
    for folder in ('overlays', 'labels'):
        assert {path.stem for path in Path('out', folder).iterdir()} == names
    for path in photos.iterdir():
        if path.suffix != '.txt':
            name = f'{path.stem}_{path.suffix[1:]}' if path.stem == 'a' else path.stem
            assert Image.open(f'out/overlays/{name}.png').size == Image.open(path).size
            labels = np.array(Image.open(f'out/labels/{name}.png'))
            assert labels.shape == Image.open(path).size[::-1]
            assert labels.max() < 3
    assert '6 images predicted' in output


def test_mixed_precision_gives_the_label_maps_of_the_test_command_with_it(
    files: tuple[str, str], trained: Path, run_tool: Run
) -> None:
    images = trained / 'data' / 'images'
    assert run_tool('test', *files, '--amp', '--no-tf32', '--out', 'tested')[0] == 0
    for name, options in {'half': ['--amp'], 'full': []}.items():
        assert run_tool('predict', *files, images, '--out', name, '--save-mask', *options)[0] == 0
    maps = {
        name: np.stack([np.array(Image.open(f'{name}/image_{index}.png')) for index in range(3)])
        for name in ('tested', 'half/labels', 'full/labels')
    }
    assert np.array_equal(maps['tested'], maps['half/labels'])
    assert (maps['half/labels'] == maps['full/labels']).mean() > 0.9


def test_label_maps_equal_those_of_the_test_command(files: tuple[str, str], trained: Path, run_tool: Run) -> None:
    assert run_tool('test', *files, '--out', 'tested')[0] == 0
    assert run_tool('predict', *files, trained / 'data' / 'images', '--out', 'out', '--save-mask')[0] == 0
    for index in range(3):
        tested = np.array(Image.open(f'tested/image_{index}.png'))
        assert np.array_equal(np.array(Image.open(f'out/labels/image_{index}.png')), tested)


def test_an_image_is_turned_as_its_exif_orientation_says(files: tuple[str, str], photos: Path, run_tool: Run) -> None:
    image = Image.open(photos / 'a.png')
    exif = Image.Exif()
    exif[274] = 6  # turn by 90 degrees
    image.save(photos / 'turned.jpg', exif=exif)
    assert run_tool('predict', *files, photos / 'turned.jpg', '--out', 'out', '--no-legend')[0] == 0
    assert Image.open('out/overlays/turned.png').size == image.size[::-1]


def test_unreadable_images_are_reported_and_the_others_done(
    files: tuple[str, str], photos: Path, run_tool: Run
) -> None:
    whole = (photos / 'a.jpg').read_bytes()
    (photos / 'cut.jpg').write_bytes(whole[: len(whole) // 2])
    (photos / 'text.jpg').write_text('no image')
    Image.fromarray(np.full((40, 48), 40000, np.uint16)).save(photos / 'deep.png')
    code, output = run_tool('predict', *files, photos, '--out', 'out')
    assert code == 2
    assert '3 images failed' in output
    assert 'Traceback' not in output
    for name in ('cut.jpg', 'text.jpg', 'deep.png'):
        assert f'{photos / name}: ' in output
    assert '16' in next(line for line in output.splitlines() if 'deep.png: ' in line)
    assert len(list(Path('out').rglob('*'))) == 1 + 6  # the folder and its pictures: no leftovers, no label maps


def test_a_pattern_finds_images_in_subfolders(files: tuple[str, str], photos: Path, run_tool: Run) -> None:
    (photos / 'deeper').mkdir()
    (photos / 'a.jpg').rename(photos / 'deeper' / 'a.jpg')
    code, _ = run_tool('predict', *files, f'{photos}/**/a.*', '--out', 'out')
    assert code == 0
    assert {path.name for path in Path('out/overlays').iterdir()} == {'a_jpg.png', 'a_png.png'}


BAD_ARGUMENTS: dict[str, tuple[list[str], list[str]]] = {
    'no such image': (['absent.jpg', '--out', 'out'], ['absent.jpg']),
    'empty folder': (['empty', '--out', 'out'], ['empty', 'no image']),
    'empty pattern': (['empty/*.jpg', '--out', 'out'], ['empty/*.jpg']),
    'out is a file': (['photos', '--out', 'taken'], ['--out taken is a file']),
    'opacity': (['photos', '--out', 'out', '--opacity', '1.5'], ['--opacity', '1.5']),
    'device': (['photos', '--out', 'out', '--device', 'gpu0'], ["--device 'gpu0'"]),
    'absent device': (['photos', '--out', 'out', '--device', 'cuda:99'], ["--device 'cuda:99'"]),
}


@pytest.mark.parametrize('case', BAD_ARGUMENTS)
def test_bad_arguments_end_in_one_sentence(
    case: str, files: tuple[str, str], photos: Path, run_tool: Run, tmp_path: Path
) -> None:
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'taken').write_text('')
    arguments, expected = BAD_ARGUMENTS[case]
    code, output = run_tool('predict', *files, *arguments)
    assert code == 2
    assert 'Traceback' not in output
    for part in expected:
        assert part in output
    assert not Path('out').exists()


def test_a_checkpoint_of_another_model_is_refused(
    files: tuple[str, str], photos: Path, run_tool: Run, tmp_path: Path
) -> None:
    torch.save({'state_dict': {'backbone.conv1.weight': torch.zeros(4)}}, tmp_path / 'other.pth')
    code, output = run_tool('predict', files[0], 'other.pth', photos, '--out', 'out')
    assert code == 2
    assert 'other.pth does not fit' in output
    assert 'backbone.conv1.weight' in output
    assert not Path('out').exists()


def test_a_checkpoint_that_would_run_code_is_refused(
    files: tuple[str, str], photos: Path, run_tool: Run, tmp_path: Path
) -> None:
    if not hasattr(torch.serialization, 'safe_globals'):
        pytest.skip('before PyTorch 2.5 checkpoints of mmengine can only be read with pickle')
    torch.save({'state_dict': {'a': torch.zeros(1)}, 'path': Path('x')}, tmp_path / 'code.pth')
    code, output = run_tool('predict', files[0], 'code.pth', photos, '--out', 'out')
    assert code == 2
    assert '--trust' in output


@pytest.mark.parametrize('align_corners', [False, True])
def test_a_large_image_gets_the_same_labels_with_the_memory_of_a_class_at_a_time(
    align_corners: bool, files: tuple[str, str], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = inference.Predictor(load_config(files[0]), files[1])
    predictor.model.align_corners = align_corners
    at_once = [predictor.segment(path)[1] for path in (photos / 'a.jpg', photos / 'small.png')]
    monkeypatch.setattr(inference, 'MAX_SCORES', 1)
    one_by_one = [predictor.segment(path)[1] for path in (photos / 'a.jpg', photos / 'small.png')]
    for ours, theirs in zip(one_by_one, at_once, strict=True):
        assert np.array_equal(ours, theirs)
    assert len(np.unique(at_once[0])) > 1


@pytest.mark.parametrize('scale', [1.0, 1.5])
def test_views_of_a_large_image_are_merged_at_a_smaller_size(
    scale: float, files: tuple[str, str], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = load_config(files[0])
    cfg.tta_pipeline[1].transforms.insert(
        0, [dict(type='Resize', scale_factor=factor, keep_ratio=True) for factor in (0.75, scale)]
    )
    predictor = inference.TTAPredictor(cfg, files[1])
    Image.open(photos / 'a.png').resize((9, 7)).resize((96, 80), Image.Resampling.BICUBIC).save(photos / 'large.png')
    whole = predictor.segment(photos / 'large.png')[1]
    seen = []
    merge = type(predictor.model).merge_preds
    monkeypatch.setattr(
        type(predictor.model), 'merge_preds', lambda model, views: seen.extend(views[0]) or merge(model, views)
    )
    monkeypatch.setattr(inference, 'MAX_SCORES', 3 * 60 * 72)
    smaller = predictor.segment(photos / 'large.png')[1]
    assert {view.seg_logits.shape for view in seen} == {(60, 72)}
    assert len(seen) == 4
    assert smaller.shape == whole.shape == (80, 96)
    assert (smaller == whole).mean() > 0.95
    assert len(np.unique(whole)) > 1
