"""``tools/test.py``: what it writes, and the checkpoints it refuses."""

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmvit_ext.inference.predictor import Predictor

Run = Callable[..., tuple[int, str]]


def error_of(output: str) -> str:
    assert 'Traceback' not in output
    lines = [line for line in output.splitlines() if line.startswith('test: error: ')]
    assert len(lines) == 1, output[-2000:]
    return lines[0]


@pytest.fixture
def files(trained: Path) -> tuple[str, str]:
    return str(trained / 'config.py'), str(trained / 'work_dir' / 'iter_2.pth')


def miou(output: str) -> float:
    return float(re.findall(r'mIoU: (\S+)', output)[-1])


def test_metrics_equal_those_of_the_training_run(files: tuple[str, str], trained: Path, run_tool: Run) -> None:
    code, output = run_tool('test', *files, '--out', 'metrics.json')
    assert code == 0
    log = next((trained / 'work_dir').glob('*/*.log')).read_text()
    assert miou(output) == miou(log)
    assert json.loads(Path('metrics.json').read_text())['mIoU'] == pytest.approx(miou(log), abs=0.006)


def test_label_maps_and_pictures_are_written_for_every_image(files: tuple[str, str], run_tool: Run) -> None:
    code, _ = run_tool('test', *files, '--out', 'maps', '--show-dir', 'shown')
    assert code == 0
    names = {f'image_{index}.png' for index in range(3)}
    assert {path.name for path in Path('maps').iterdir()} == names
    assert np.array(Image.open('maps/image_0.png')).shape == (40, 48)
    assert len(list(Path('shown').rglob('*image_*.png'))) == 3


def test_test_time_augmentation_averages_variants(files: tuple[str, str], run_tool: Run) -> None:
    """The image as it is, and mirrored; the predictor without views gives the scores of each."""
    code, output = run_tool('test', *files, '--tta', '--out', 'predictions.pkl')
    assert code == 0
    assert 0 <= miou(output) <= 100
    cfg = Config.fromfile(files[0])
    cfg.test_dataloader.dataset.pipeline = [cfg.tta_pipeline[0], dict(type='PackSegInputs')]
    predictor = Predictor(cfg, files[1], torch.device('cpu'))
    changed = 0
    for found in pickle.loads(Path('predictions.pkl').read_bytes()):
        pixels = np.array(Image.open(found['img_path']))[..., ::-1]
        views = [predictor(predictor.load(np.ascontiguousarray(view)))[1] for view in (pixels, pixels[:, ::-1])]
        plain, mirrored = (view.seg_logits.data.softmax(0) for view in views)
        mean = (plain + mirrored.flip(2)) / 2
        best = mean.topk(2, 0).values
        decided = best[0] - best[1] > 1e-5
        labels = torch.as_tensor(found['pred_sem_seg']['data']).squeeze()
        assert torch.equal(labels[decided], mean.argmax(0)[decided])
        changed += int((labels != plain.argmax(0)).sum())
    assert changed


def test_test_time_augmentation_needs_a_config_that_says_how(
    files: tuple[str, str], run_tool: Run, tmp_path: Path
) -> None:
    config = tmp_path / 'plain.py'
    config.write_text(Path(files[0]).read_text() + '\ndel tta_model\ndel tta_pipeline\n')
    code, output = run_tool('test', config, files[1], '--tta')
    assert code == 2
    assert 'tta_model' in error_of(output)
    assert 'plain.py' in error_of(output)


def truncated(source: Path, path: Path) -> None:
    path.write_bytes(source.read_bytes()[:-1000])


BAD_CHECKPOINTS: dict[str, tuple[Callable[[Path, Path], object], list[str]]] = {
    'missing': (lambda source, path: None, ['there is no checkpoint', 'bad.pth']),
    'empty': (lambda source, path: path.write_bytes(b''), ['bad.pth', 'empty']),
    'text': (lambda source, path: path.write_text('version https://example.org'), ['bad.pth', 'no PyTorch checkpoint']),
    'cut off': (truncated, ['bad.pth', 'cut off']),
    'no dictionary': (lambda source, path: torch.save([1, 2], path), ['bad.pth', 'list']),
    'another model': (
        lambda source, path: torch.save({'state_dict': {'backbone.conv1.weight': torch.zeros(4)}}, path),
        ['bad.pth', '0 of', 'missing', 'backbone.conv1.weight', 'belongs to this config'],
    ),
    'another head': (
        lambda source, path: torch.save({'state_dict': enlarge(source)}, path),
        ['bad.pth', '1 of another shape', 'decode_head.conv_seg.bias 7 for 3'],
    ),
}


def enlarge(source: Path) -> dict[str, torch.Tensor]:
    state = torch.load(source, weights_only=False)['state_dict']
    state['decode_head.conv_seg.bias'] = torch.zeros(7)
    return state


@pytest.mark.parametrize('case', BAD_CHECKPOINTS)
def test_a_bad_checkpoint_ends_in_one_sentence(
    case: str, files: tuple[str, str], run_tool: Run, tmp_path: Path
) -> None:
    spoil, expected = BAD_CHECKPOINTS[case]
    spoil(Path(files[1]), tmp_path / 'bad.pth')
    code, output = run_tool('test', files[0], 'bad.pth', '--out', 'metrics.json')
    assert code == 2
    for part in expected:
        assert part in error_of(output)
    assert not Path('metrics.json').exists()


def test_a_checkpoint_with_one_parameter_too_few_is_refused_unless_allowed(
    files: tuple[str, str], run_tool: Run, tmp_path: Path
) -> None:
    state = torch.load(files[1], weights_only=False)['state_dict']
    del state['backbone.cls_token']
    torch.save({'state_dict': state}, tmp_path / 'partial.pth')
    code, output = run_tool('test', files[0], 'partial.pth')
    assert code == 2
    assert '1 missing (backbone.cls_token)' in error_of(output)
    assert run_tool('test', files[0], 'partial.pth', '--allow-partial-weights')[0] == 0


@pytest.mark.parametrize('out', ['metrics.txt', 'taken/metrics.json'])
def test_a_place_that_cannot_be_written_is_found_before_the_test(
    out: str, files: tuple[str, str], run_tool: Run, tmp_path: Path
) -> None:
    (tmp_path / 'taken').write_text('')
    code, output = run_tool('test', *files, '--out', out)
    assert code == 2
    assert '--out' in error_of(output)
    assert 'Iter(test)' not in output


def test_a_missing_test_folder_is_named_with_its_key(files: tuple[str, str], run_tool: Run) -> None:
    code, output = run_tool('test', *files, '--cfg-options', 'test_dataloader.dataset.data_root=/no/such')
    assert code == 2
    assert '/no/such (test_dataloader.dataset.data_root)' in error_of(output)


@pytest.mark.parametrize('section', ['test_dataloader', 'test_evaluator', 'test_cfg'])
def test_a_config_of_another_kind_of_run_is_refused(
    section: str, files: tuple[str, str], run_tool: Run, tmp_path: Path
) -> None:
    config = tmp_path / 'other.py'
    config.write_text(Path(files[0]).read_text() + f'\ndel {section}\n')
    code, output = run_tool('test', config, files[1])
    assert code == 2
    assert f'other.py has no {section}: it is no test config, or lacks a base file' in error_of(output)
