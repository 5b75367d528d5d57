"""``tools/train.py``: what it does, what it logs and what it refuses."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

Config = Callable[..., str]
Run = Callable[..., tuple[int, str]]


def error_of(output: str) -> str:
    """The error line; fails when there is a traceback or more than one error."""
    assert 'Traceback' not in output
    lines = [line for line in output.splitlines() if re.match(r'\w+: error: ', line)]
    assert len(lines) == 1, output[-2000:]
    return lines[0]


def no_work_dir(tmp_path: Path) -> bool:
    return not (tmp_path / 'work_dirs').exists()


# What it does


def test_a_run_writes_checkpoints_metrics_and_its_config(trained: Path) -> None:
    assert (trained / 'work_dir' / 'iter_2.pth').is_file()
    assert len(list((trained / 'work_dir').glob('best_mIoU_*.pth'))) == 1
    assert (trained / 'work_dir' / f'{trained.name}.py').is_file()
    log = next((trained / 'work_dir').glob('*/*.log')).read_text()
    assert 'mIoU' in log
    assert 'train_dataloader.dataset: 3 images, 0 without annotation, 3 classes' in log


def test_resume_without_a_value_goes_on_from_the_last_checkpoint(make_config: Config, run_tool: Run) -> None:
    config = make_config()
    assert run_tool('train', config, '--work-dir', 'runs', '--cfg-options', 'train_cfg.max_iters=1')[0] == 0
    code, output = run_tool('train', config, '--work-dir', 'runs', '--resume')
    assert code == 0
    assert 'resumed epoch: 0, iter: 1' in output
    assert 'Iter(train) [2/2]' in output
    assert 'Iter(train) [1/2]' not in output
    assert 'Could not safely load weights' not in output


def test_resume_without_a_checkpoint_starts_from_the_beginning(make_config: Config, run_tool: Run) -> None:
    code, output = run_tool('train', make_config(), '--work-dir', 'runs', '--resume')
    assert code == 0
    assert 'no checkpoint in runs' in output
    assert 'Iter(train) [1/2]' in output


def test_amp_trains_in_bfloat16_on_a_cpu(make_config: Config, run_tool: Run) -> None:
    code, output = run_tool('train', make_config(), '--work-dir', 'runs', '--amp')
    assert code == 0
    expected = 'mmvit_ext.CPUAmpOptimWrapper' if not torch.cuda.is_available() else 'AmpOptimWrapper'
    assert expected in next(Path('runs').glob('*.py')).read_text()
    assert 'nan' not in output


def test_seed_decides_the_weights(make_config: Config, run_tool: Run) -> None:
    weights = []
    for name, seed in (('a', 7), ('b', 7), ('c', 8)):
        arguments = ('--work-dir', name, '--seed', str(seed), '--cfg-options', 'train_cfg.max_iters=1')
        assert run_tool('train', make_config(name=name), *arguments)[0] == 0
        state = torch.load(Path(name) / 'iter_1.pth', weights_only=False)['state_dict']
        weights.append(state['backbone.layers.0.attn.attn.in_proj_weight'])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_learning_rate_is_compared_with_the_recipe(make_config: Config, run_tool: Run) -> None:
    config = make_config()
    code, output = run_tool('train', config, '--work-dir', 'a', '--cfg-options', 'optim_wrapper.accumulative_counts=2')
    assert code == 0
    assert 'total batch size 4 = 1 processes x 2 images x 2 accumulated, recipe 16' in output
    assert "0.25 times the recipe's 16" in output
    code, output = run_tool('train', config, '--work-dir', 'b', '--auto-scale-lr')
    assert code == 0
    assert 'learning rate 0.000125 (scaled from 0.001)' in output
    assert "times the recipe's" not in output
    assert re.search(r'\[1/2\]\s+lr: 1.2500e-04', output)


def test_data_root_as_an_option_reaches_every_dataset(make_config: Config, run_tool: Run, data_root: Path) -> None:
    config = make_config()
    shutil.move(data_root, data_root.parent / 'moved')
    code, output = run_tool('train', config, '--cfg-options', f'data_root={data_root.parent / "moved"}')
    assert code == 0, output[-2000:]


def test_compile_compiles_the_training_step_as_the_config_says(make_config: Config, run_tool: Run) -> None:
    arguments = ('--compile', '--cfg-options', 'compile.backend=eager', 'train_cfg.max_iters=1')
    code, output = run_tool('train', make_config(), '--work-dir', 'runs', *arguments)
    assert code == 0, output[-2000:]
    assert 'Model has been "compiled"' in output


# Pretrained weights


def test_pretrained_weights_are_reported_as_loaded(make_config: Config, run_tool: Run, trained: Path) -> None:
    checkpoint = str(trained / 'work_dir' / 'iter_2.pth')
    config = make_config(
        "model['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint='backbone_only.pth')",
        f'load_from = {checkpoint!r}',
    )
    state = torch.load(checkpoint, weights_only=False)['state_dict']
    backbone = {key.removeprefix('backbone.'): value for key, value in state.items() if key.startswith('backbone.')}
    del backbone['cls_token']
    backbone['head.weight'] = torch.zeros(3, 3)
    # another training size: mmseg's backbone resizes the embedding before it loads
    backbone['pos_embed'] = torch.zeros(1, 1 + 6 * 6, 16)
    path = Path(config).parent / 'backbone_only.pth'
    torch.save({'state_dict': backbone}, path)
    code, output = run_tool('train', config, '--work-dir', 'runs')
    assert code == 0, output[-2000:]
    total = sum(not key.endswith('num_batches_tracked') for key in state)
    assert f'-> backbone: {len(backbone) - 1} of {len(backbone)} parameters matched' in output
    assert '1 missing (cls_token), 1 unexpected (head.weight), 0 of another shape' in output
    assert f'-> the model of this config: {total} of {total} parameters matched' in output


def test_pretrained_weights_of_which_little_fits_are_an_error_unless_allowed(
    make_config: Config, run_tool: Run, tmp_path: Path
) -> None:
    torch.save({'blocks.0.weight': torch.zeros(2)}, tmp_path / 'other.pth')
    config = make_config("model['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint='other.pth')")
    code, output = run_tool('train', config)
    assert code == 2
    message = error_of(output)
    assert 'other.pth' in message
    assert 'blocks.0.weight' in message
    assert '--allow-partial-weights' in message
    assert not list(tmp_path.rglob('iter_*.pth'))
    code, output = run_tool('train', config, '--allow-partial-weights')
    assert code == 0


def test_a_missing_pretrained_file_is_found_before_the_run(make_config: Config, run_tool: Run, tmp_path: Path) -> None:
    config = make_config("model['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint='absent.pth')")
    code, output = run_tool('train', config)
    assert code == 2
    assert 'absent.pth' in error_of(output)
    assert 'model.backbone.init_cfg.checkpoint' in error_of(output)
    assert '--cfg-options model.backbone.init_cfg=None' in error_of(output)
    assert no_work_dir(tmp_path)
    assert run_tool('train', config, '--cfg-options', 'model.backbone.init_cfg=None')[0] == 0


def test_resuming_from_another_model_is_an_error(make_config: Config, run_tool: Run, trained: Path) -> None:
    config = make_config("model['decode_head']['channels'] = 4")
    code, output = run_tool('train', config, '--resume', trained / 'work_dir' / 'iter_1.pth')
    assert code == 2
    message = error_of(output)
    assert 'iter_1.pth' in message
    assert 'decode_head.conv_seg.weight' in message or 'decode_head.convs.0' in message


def test_resuming_from_plain_weights_is_an_error(
    make_config: Config, run_tool: Run, trained: Path, tmp_path: Path
) -> None:
    state = torch.load(trained / 'work_dir' / 'iter_1.pth', weights_only=False)['state_dict']
    torch.save({'state_dict': state}, tmp_path / 'weights.pth')
    code, output = run_tool('train', make_config(), '--resume', 'weights.pth')
    assert code == 2
    assert 'load_from' in error_of(output)


# Bad input, found before anything is written


BAD_CONFIGS = {
    'type of the backbone': (
        ["model['backbone']['type'] = 'VisionTransfomer'"],
        ['VisionTransfomer', 'VisionTransformer'],
    ),
    'type without our scope': (["model['decode_head']['type'] = 'ATMHead'"], ['ATMHead', 'mmvit_ext.ATMHead']),
    'transform': (
        ["train_pipeline[2]['type'] = 'RandomCrob'", "train_dataloader['dataset']['pipeline'] = train_pipeline"],
        ['RandomCrob', 'RandomCrop', 'pipeline.2'],
    ),
    'library': (["model['neck'] = dict(type='mmpose.Neck')"], ['mmpose', 'model.neck.type']),
    'number of classes': (
        ["model['decode_head']['num_classes'] = 4"],
        ['model.decode_head.num_classes is 4', '3 classes', 'wall'],
    ),
    'scope': (["default_scope = 'mmsegm'"], ['mmsegm']),
    'syntax': (['model = dict('], ['cannot be read', 'SyntaxError']),
    'argument': (["model['backbone']['depht'] = 4"], ['depht', 'VisionTransformer']),
    'data_root': (
        ["train_dataloader['dataset']['data_root'] = '/no/such/folder'"],
        ['/no/such/folder', 'train_dataloader.dataset.data_root'],
    ),
    'prefix': (
        ["val_dataloader['dataset']['data_prefix'] = dict(img_path='absent', seg_map_path='labels')"],
        ['absent', 'val_dataloader.dataset.data_prefix.img_path'],
    ),
    'annotation file': (["train_dataloader['dataset']['ann_file'] = 'split.txt'"], ['split.txt', 'ann_file']),
    'suffix': (["train_dataloader['dataset']['img_suffix'] = '.jpg'"], ['no image ending in .jpg', 'images']),
    'label suffix': (
        ["train_dataloader['dataset']['seg_map_suffix'] = '_seg.png'"],
        ['3 of 3 images', 'image_0_seg.png'],
    ),
}


@pytest.mark.parametrize('case', BAD_CONFIGS)
def test_a_bad_config_ends_in_one_sentence(case: str, make_config: Config, run_tool: Run, tmp_path: Path) -> None:
    extra, expected = BAD_CONFIGS[case]
    code, output = run_tool('train', make_config(*extra))
    assert code == 2
    message = error_of(output)
    for part in expected:
        assert part in message
    if case != 'argument':  # only building the class can tell
        assert no_work_dir(tmp_path)
    assert not list(tmp_path.rglob('*.pth'))


def test_a_missing_config_names_similar_files(make_config: Config, run_tool: Run) -> None:
    config = make_config()
    code, output = run_tool('train', config.replace('tiny', 'tny'))
    assert code == 2
    assert Path(config).name in error_of(output)


BAD_OPTIONS = {
    'train_cgf.max_iters=4': 'train_cfg',
    'train_cfg.max_itres=4': 'train_cfg.max_iters',
    'model.decode_head.num_clases=4': 'model.decode_head.num_classes',
    'crop_size=16,16': 'model.data_preprocessor.size',
    'train_dataloader.dataset.pipeline.9.type=Pad': 'train_dataloader.dataset.pipeline',
    'model.backbone.embed_dims.x=4': 'is the value 16',
}


@pytest.mark.parametrize('option', BAD_OPTIONS)
def test_an_option_that_changes_nothing_is_an_error(option: str, make_config: Config, run_tool: Run) -> None:
    code, output = run_tool('train', make_config(), '--cfg-options', option)
    assert code == 2
    assert option.split('=', maxsplit=1)[0] in error_of(output)
    assert BAD_OPTIONS[option] in error_of(output)


@pytest.mark.parametrize(
    'option', ['model.backbone.with_cp=True', 'optim_wrapper.clip_grad.max_norm=1.0', 'randomness.seed=3']
)
def test_an_option_that_the_config_leaves_out_is_accepted(option: str, make_config: Config, run_tool: Run) -> None:
    arguments = ('--work-dir', 'runs', '--cfg-options', option, 'train_cfg.max_iters=1')
    assert run_tool('train', make_config(), *arguments)[0] == 0


def test_a_work_dir_that_is_a_file_is_an_error(make_config: Config, run_tool: Run, tmp_path: Path) -> None:
    (tmp_path / 'taken').write_text('')
    for path in ('taken', 'taken/below'):
        code, output = run_tool('train', make_config(), '--work-dir', path)
        assert code == 2
        assert 'taken' in error_of(output)


# Bad files, found while training, in this process and in a worker


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def set_label(path: Path, value: int) -> None:
    labels = np.array(Image.open(path))
    labels[:2, :5] = value
    Image.fromarray(labels).save(path)


def crop(path: Path) -> None:
    Image.open(path).crop((0, 0, 20, 30)).save(path)


BAD_FILES: dict[str, tuple[str, Callable[[Path], None], list[str]]] = {
    'truncated image': ('images', truncate, ['image_{}.png', 'truncated']),
    'text instead of an image': ('images', lambda path: path.write_text('hello'), ['image_{}.png', 'decoded']),
    'truncated label map': ('labels', truncate, ['labels/image_{}.png', 'truncated']),
    'label outside the classes': (
        'labels',
        lambda path: set_label(path, 9),
        ['labels/image_{}.png', '9 (10 px)', '0 to 2'],
    ),
    'label map of another size': ('labels', crop, ['labels/image_{}.png', '20x30', '48x40']),
}


@pytest.mark.parametrize(
    ('case', 'workers'), [*((case, 0) for case in BAD_FILES), ('truncated image', 1), ('label outside the classes', 1)]
)
def test_a_bad_file_ends_in_one_sentence_naming_it(
    case: str, workers: int, make_config: Config, run_tool: Run, data_root: Path
) -> None:
    folder, spoil, expected = BAD_FILES[case]
    for path in (data_root / folder).iterdir():
        spoil(path)
    config = make_config(f"train_dataloader['num_workers'] = {workers}")
    code, output = run_tool('train', config)
    assert code == 2
    message = error_of(output)
    for part in expected:
        assert any(part.format(index) in message for index in range(3)), message


def test_a_label_outside_the_classes_is_found_behind_mmsegs_own_loader(
    make_config: Config, run_tool: Run, data_root: Path
) -> None:
    for path in (data_root / 'labels').iterdir():
        labels = np.array(Image.open(path))
        labels[::4] = 9  # in every crop
        Image.fromarray(labels).save(path)
    config = make_config(
        "train_pipeline[1] = dict(type='LoadAnnotations')", "train_dataloader['dataset']['pipeline'] = train_pipeline"
    )
    code, output = run_tool('train', config)
    assert code == 2
    assert re.search(r'labels/image_\d.png has values outside the 3 classes: 9 \(\d+ px\)', error_of(output))


def test_images_smaller_than_a_patch_train(make_config: Config, run_tool: Run, data_root: Path) -> None:
    for folder in ('images', 'labels'):
        for path in (data_root / folder).iterdir():
            Image.open(path).crop((0, 0, 5, 3)).save(path)
    assert run_tool('train', make_config())[0] == 0


def test_a_batch_without_labels_trains_with_finite_losses(make_config: Config, run_tool: Run, data_root: Path) -> None:
    for path in (data_root / 'labels').iterdir():
        Image.fromarray(np.full((40, 48), 255, np.uint8)).save(path)
    config = make_config("model['decode_head']['loss_decode']['avg_non_ignore'] = True")
    code, output = run_tool('train', config)
    assert code == 0
    losses = [float(value) for value in re.findall(r' loss: (\S+)', output)]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
