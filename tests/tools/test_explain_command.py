"""``tools/explain.py``: files, page, numbers and refusals; masks and superpixels have tests of their own."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

pytest.importorskip('mmseg')

from mmvit_ext.inference.predictor import Predictor
from mmvit_ext.interpret import atm_masks, cam, gradcat, gradcat_pictures, tokens, tsne
from mmvit_ext.interpret.tokens import mean_similarity
from tests.interpret.test_report import Page
from tests.tools.conftest import call_tool

Run = Callable[..., tuple[int, str]]
Files = tuple[str, str]
TNT = """
model.update(
    backbone=dict(type='mmvit_ext.TNT', img_size=32, patch_size=8, inner_stride=2, out_indices=-1,
                  arch=dict(embed_dims_outer=16, embed_dims_inner=6, num_layers=4, num_heads_outer=2,
                            num_heads_inner=2)),
)
"""
NEST = """
model.update(
    backbone=dict(type='mmvit_ext.NesT', img_size=32, patch_size=2, block_size=4, out_indices=-1,
                  arch=dict(embed_dims=(8, 16), num_heads=(2, 2), depths=(1, 1))),
)
"""
VIT = """
model.update(
    backbone=dict(type='mmvit_ext.ViT', img_size=32, patch_size=8, out_indices=-1,
                  embed_dims=16, num_layers=3, num_heads=2),
)
"""


def files_of(config: str, checkpoint: Path, scope: str = 'mmseg') -> Files:
    """A config and weights with which an untrained model predicts several classes."""
    init_default_scope(scope)
    model = MODELS.build(Config.fromfile(config).model)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3, generator=generator)
    torch.save({'state_dict': model.state_dict()}, checkpoint)
    return config, str(checkpoint)


@pytest.fixture
def tnt(make_config: Callable[..., str], tmp_path: Path) -> Files:
    return files_of(make_config(TNT, name='tnt'), tmp_path / 'tnt.pth')


@pytest.fixture
def vit(make_config: Callable[..., str], tmp_path: Path) -> Files:
    return files_of(make_config(VIT, name='vit'), tmp_path / 'vit.pth')


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / 'photos'
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (5, 6, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((53, 41), Image.Resampling.BICUBIC)
    image.save(folder / 'a.png')
    image.save(folder / 'a.bmp')
    image.rotate(90, expand=True).save(folder / 'b c#.png')
    return folder


def written(folder: str | Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob('*') if path.is_file()}


def test_tokens_of_two_models_are_drawn_and_put_on_a_page(tnt: Files, vit: Files, photos: Path, run_tool: Run) -> None:
    (photos / 'cut.jpg').write_bytes(b'\xff\xd8\xff')
    code, output = run_tool(
        'explain', 'tokens', *tnt, photos, '--out', 'out', '--beside', *vit, '--size', '48', '--save-maps'
    )
    assert code == 2
    assert '3 images explained, open out/tokens.html' in output
    assert 'explain: error: 1 images failed' in output
    assert f'{photos / "cut.jpg"}: ' in output
    names = {'a_png', 'a_bmp', 'b c#'}
    files = {f'{name}/{kind}' for name in names for kind in ('words.png', 'patches.png', 'maps.npz')}
    files |= {f'{name}.json' for name in names} | {'tsne.png', 'tsne.npz'}
    assert written('out') == {f'tokens/{name}' for name in files} | {'tokens.html', 'tokens.json'}

    facts = json.loads(Path('out/tokens/b c#.json').read_text())['blocks']
    shown = [(fact['model'], fact['block'], fact['tokens']) for fact in facts]
    assert shown == [
        *(('TNT', 1, 'words'), ('TNT', 1, 'patches'), ('ViT', 1, 'patches')),
        *(('TNT', 2, 'words'), ('TNT', 2, 'patches'), ('ViT', 2, 'patches')),
        *(('TNT', 4, 'words'), ('TNT', 4, 'patches'), ('ViT', 3, 'patches')),
    ]
    # No patch of the padding is part of the maps.
    maps = np.load('out/tokens/b c#/maps.npz')
    predictor = Predictor(Config.fromfile(tnt[0]), tnt[1], torch.device('cpu'))
    _, batch = predictor.prepare(photos / 'b c#.png')
    height, width = batch['inputs'][0].shape[-2:]
    inputs = predictor.model.data_preprocessor(batch, False)['inputs']  # type: ignore[operator, union-attr]
    with torch.no_grad():
        expected = predictor.model.backbone(inputs)[-1][0]  # type: ignore[operator, union-attr]
    expected = expected[:, : -(-height // 8), : -(-width // 8)].numpy()
    assert np.array_equal(maps['TNT_block4_patches'], expected)
    assert maps['TNT_block4_words'].shape == (6, -(-height // 2), -(-width // 2))
    last = facts[-2]
    assert last['grid'] == f'{expected.shape[1]} x {expected.shape[2]}'
    assert last['mean cosine similarity'] == pytest.approx(mean_similarity(expected.reshape(16, -1).T), abs=1e-6)

    overall = json.loads(Path('out/tokens.json').read_text())['blocks']
    assert [(fact['model'], fact['block']) for fact in overall] == [
        *(('TNT', 1), ('TNT', 2), ('TNT', 4), ('ViT', 1), ('ViT', 2), ('ViT', 3))
    ]
    each = [json.loads(Path(f'out/tokens/{name}.json').read_text())['blocks'][-2] for name in names]
    mean = np.mean([fact['mean cosine similarity'] for fact in each])
    assert overall[2]['mean cosine similarity of patches'] == pytest.approx(mean)
    arrays = np.load('out/tokens/tsne.npz')
    assert sorted(arrays['names']) == sorted(names)
    patches = sum(int(h) * int(w) for h, w in (fact['grid'].split(' x ') for fact in each))
    assert arrays['TNT_block4_plane'].shape == (patches, 2)
    assert overall[2]['patches in t-SNE'] == patches

    page = Page(Path('out/tokens.html'))
    assert len(page.images) == 3 + 1 + 3 * 3  # thumbnails, t-SNE; thumbnail, words and patches of each
    for text in ('b c#', 'cut.jpg', 'ViT', 'patches in t-SNE', vit[0], tnt[1]):
        assert text in page.text


def test_chosen_blocks_alone_are_shown_and_t_sne_can_be_left_out(tnt: Files, photos: Path, run_tool: Run) -> None:
    code, _ = run_tool(
        *('explain', 'tokens', *tnt, photos / 'a.png', '--out', 'out', '--size', '32'),
        *('--blocks', '3', '2', '--no-tsne', '--channels', '0'),
    )
    assert code == 0
    assert written('out') == {
        *('tokens.html', 'tokens.json', 'tokens/a.json', 'tokens/a/words.png', 'tokens/a/patches.png')
    }
    facts = json.loads(Path('out/tokens/a.json').read_text())['blocks']
    assert [fact['block'] for fact in facts] == [2, 2, 3, 3]


@pytest.mark.parametrize('colours', tsne.COLOURINGS)
def test_colours_stand_for_what_was_asked(
    colours: str, tnt: Files, photos: Path, run_tool: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(tokens, 'draw_planes', lambda *arguments: seen.append(arguments[:-1]) or arguments[-1].touch())
    monkeypatch.setattr(tokens, 'embed_in_plane', lambda features, seed: (features[:, :2], 3.0, 0.0))
    monkeypatch.setattr('mmvit_ext.interpret.report._embedded', lambda path: ('data:', 1))
    options = ['--out', 'out', '--size', '32', '--blocks', '4', '--points', '30', '--colours', colours]
    assert run_tool('explain', 'tokens', *tnt, photos, *options)[0] == 0
    ([[(heading, patches, plane)]], colouring, names, classes) = seen[0]
    assert heading == 'TNT, block 4'
    assert colouring == colours
    assert plane.shape == (30, 2)
    assert [len(images) for images in patches.images] == [10, 10, 10]
    assert np.concatenate(patches.images).tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert len(names) == 3
    assert classes == ['wall', 'floor', 'sky']
    if colours != 'class':
        assert patches.classes == []
        return
    predictor = Predictor(Config.fromfile(tnt[0]), tnt[1], torch.device('cpu'))
    order = [photos / {'a_png': 'a.png', 'a_bmp': 'a.bmp'}.get(name, f'{name}.png') for name in names]
    for number, path in enumerate(order):
        labels = predictor.segment(path)[1]
        height, width = labels.shape
        expected = [labels[int(y * height), int(x * width)] for y, x in patches.places[number]]
        assert patches.classes[number].tolist() == expected


def test_plots_have_as_many_panels_as_models_and_blocks(tnt: Files, vit: Files, photos: Path, run_tool: Run) -> None:
    widths = {}
    for blocks in (['1'], ['1', '2', '3']):
        out = f'out{len(blocks)}'
        options = ['--out', out, '--size', '32', '--points', '24', '--blocks', *blocks]
        assert run_tool('explain', 'tokens', *tnt, photos, *options, '--beside', *vit)[0] == 0
        widths[len(blocks)] = Image.open(f'{out}/tokens/tsne.png').size
    assert widths[3][0] == pytest.approx(3 * widths[1][0], abs=2)
    assert widths[3][1] == widths[1][1]


CLASSIFIER = """
CLASSES = ('ape', 'bee', 'cat', 'dog', 'sea lion')
default_scope = 'mmpretrain'
data_preprocessor = dict(num_classes=5, mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=40, edge='short'),
    dict(type='CenterCrop', crop_size=32),
    dict(type='PackInputs'),
]
test_dataloader = dict(dataset=dict(type='ImageNet', metainfo=dict(classes=CLASSES), pipeline=test_pipeline))
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmvit_ext.NesT', img_size=32, patch_size=2, block_size=8, out_indices=-1,
        arch=dict(embed_dims=(8, 16), num_heads=(2, 2), depths=(1, 1)),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=5, in_channels=16, topk=(1,)),
)
"""


@pytest.fixture
def nest(tmp_path: Path) -> Files:
    pytest.importorskip('mmpretrain')
    config = tmp_path / f'nest_{tmp_path.name}.py'
    config.write_text(CLASSIFIER)
    return files_of(str(config), tmp_path / 'nest.pth', 'mmpretrain')


def test_classifiers_are_explained_by_what_the_middle_crop_leaves(nest: Files, photos: Path, run_tool: Run) -> None:
    options = ['--out', 'out', '--size', '40', '--colours', 'class', '--channels', '1']
    code, output = run_tool('explain', 'tokens', *nest, photos, *options)
    assert code == 0, output
    facts = json.loads(Path('out/tokens/a_png.json').read_text())['blocks']
    assert [(fact['level'], fact['grid']) for fact in facts] == [(1, '16 x 16'), (2, '8 x 8')]
    sheet = np.array(Image.open('out/tokens/a_png/patches.png'))
    cells = [sheet[:, x : x + 40] for x in range(sheet.shape[1] - 39)]
    assert any((cell != 255).any((1, 2)).sum() >= 80 for cell in cells)  # two square pictures above each other


def test_traversals_of_chosen_classes_are_drawn_and_told(nest: Files, photos: Path, run_tool: Run) -> None:
    options = ['--classes', 'Sea Lion', '1', '--sign', 'negative', '--rivals', '0', '--size', '64']
    code, output = run_tool('explain', 'gradcat', *nest, photos / 'a.png', '--out', 'out', *options)
    assert code == 0, output
    found = json.loads(Path('out/gradcat/a.json').read_text())['classes']
    assert [entry['class'] for entry in found] == ['sea lion', 'bee']
    for entry in found:
        assert [step['level'] for step in entry['steps']] == [1]
        values = np.array(entry['steps'][0]['values'])
        assert values.shape == (2, 2)
        assert values[tuple(entry['steps'][0]['chosen'])] == values.max()
    page = Page(Path('out/gradcat.html'))
    assert len(page.images) == 1 + 2
    assert 'negative' in page.text
    positive = ['--classes', 'sea lion', '--sign', 'positive', '--rivals', '0']
    assert run_tool('explain', 'gradcat', *nest, photos / 'a.png', '--out', 'other', *positive)[0] == 0
    (other,) = json.loads(Path('other/gradcat/a.json').read_text())['classes']
    np.testing.assert_allclose(np.array(other['steps'][0]['values']), -np.array(found[0]['steps'][0]['values']))


def test_activation_maps_of_the_most_probable_classes_are_drawn_and_told(
    nest: Files, photos: Path, run_tool: Run
) -> None:
    areas = []
    for threshold in ('0.2', '0.8'):
        out = f'out{threshold}'
        options = ['--top', '2', '--threshold', threshold, '--save-maps', '--size', '64']
        assert run_tool('explain', 'cam', *nest, photos / 'a.png', '--out', out, *options)[0] == 0
        rows = json.loads(Path(out, 'cam', 'a.json').read_text())['classes']
        assert len(rows) == 2
        assert rows[0]['probability'] >= rows[1]['probability']
        assert np.load(f'{out}/cam/a.npz')['maps'].shape == (2, 32, 32)
        left, top, right, bottom = rows[0]['box in image pixels']
        areas.append((right - left) * (bottom - top))
        assert len(Page(Path(out, 'cam.html')).images) == 1 + 2
    assert areas[0] > areas[1]


def test_a_segmentor_is_asked_about_a_region(
    make_config: Callable[..., str], tmp_path: Path, photos: Path, run_tool: Run
) -> None:
    files = files_of(make_config(NEST), tmp_path / 'weights.pth')
    command = [
        'explain',
        'gradcat',
        *files,
        photos / 'a.png',
        '--classes',
        'sky',
    ]  # of 3 classes, fewer than rivals by default
    mask = np.zeros((41, 53), np.uint8)
    mask[3:20, 5:50] = 255
    Image.fromarray(mask).save('mask.png')
    Image.fromarray(mask.T).save('other.png')
    logits = []
    for number, region in enumerate((['5', '3', '50', '20'], ['mask.png'], ['0', '0', '9', '9'])):
        assert run_tool(*command, '--out', f'out{number}', '--region', *region)[0] == 0
        (found,) = json.loads(Path(f'out{number}/gradcat/a.json').read_text())['classes']
        logits.append(found['logit'])
    assert logits[0] == logits[1] != logits[2]
    refused(run_tool(*command, '--out', 'out', '--region', '1', '2', '3'), '--region 1 2 3 is no region', 'a mask file')
    refused(run_tool(*command, '--out', 'out', '--region', '1', '2', '3', 'x'), '--region 1 2 3 x is no region')
    code, output = run_tool(*command, '--out', 'out', '--region', 'other.png')
    assert code == 2
    assert '41x53' in output


# Refusals


def refused(outcome: tuple[int, str], *expected: str) -> None:
    code, output = outcome
    assert code == 2, output
    assert 'Traceback' not in output
    for part in expected:
        assert part in output
    assert not Path('out').exists()


def test_a_backbone_of_another_library_is_refused_with_what_would_work(
    trained: Path, photos: Path, run_tool: Run
) -> None:
    files = [trained / 'config.py', trained / 'work_dir' / 'iter_2.pth']
    refused(
        run_tool('explain', 'tokens', *files, photos, '--out', 'out'), 'VisionTransformer', 'a backbone of mmvit_ext'
    )
    refused(run_tool('explain', 'superpixels', *files, photos, '--out', 'out'), 'VisionTransformer', 'SPFormer')
    refused(run_tool('explain', 'atm', *files, photos, '--out', 'out'), 'FCNHead', 'configs/segvit')


REFUSED_WITH_NEST: dict[str, tuple[list[str], list[str]]] = {
    'gradcat, class': (['gradcat', '--classes', 'sea lions'], ["'sea lions'", "did you mean 'sea lion'?"]),
    'gradcat, number': (['gradcat', '--classes', '7'], ['no class 7', '0 to 4']),
    'gradcat, region': (['gradcat', '--region', '0', '0', '9', '9'], ['--region is for segmentors']),
    'gradcat, rivals': (['gradcat', '--rivals', '9'], ['--rivals must be 0 to 4, got 9']),
    'gradcat, top': (['gradcat', '--top', '0'], ['--top must be at least 1']),
    'gradcat, top and classes': (['gradcat', '--top', '1', '--classes', 'ape'], ['--top', '--classes']),
    'cam, rivals': (['cam', '--rivals', '-1'], ['--rivals must be 0 to 4, got -1']),
    'cam, class': (['cam', '--classes', 'ant'], ["'ant' is none of the 5 classes"]),
    'cam, threshold': (['cam', '--threshold', '1'], ['--threshold must be a share from 0 to below 1, got 1']),
    'tokens, level': (['tokens', '--blocks', '3'], ['the NesT of', 'runs 2 levels']),
    'superpixels': (['superpixels'], ['NesT', 'mmvit_ext.SPFormer']),
    'atm': (['atm'], ['configs/segvit']),
}


@pytest.mark.parametrize('case', REFUSED_WITH_NEST)
def test_what_cannot_be_explained_of_a_classifier_is_refused(
    case: str, nest: Files, photos: Path, run_tool: Run
) -> None:
    (method, *options), expected = REFUSED_WITH_NEST[case]
    refused(run_tool('explain', method, *nest, photos, '--out', 'out', *options), *expected)


def test_a_backbone_without_levels_and_a_segmentor_without_one_score_are_refused(
    tnt: Files, photos: Path, run_tool: Run
) -> None:
    refused(run_tool('explain', 'gradcat', *tnt, photos, '--out', 'out'), 'TNT', 'no nested levels', 'configs/nest')
    refused(run_tool('explain', 'cam', *tnt, photos, '--out', 'out'), 'scope mmseg', 'expected a classifier')


REFUSED: dict[str, tuple[list[str], list[str]]] = {
    'no such block': (['--blocks', '5'], ['--blocks 5', 'runs 4 blocks', 'choose 1 to 4']),
    'size': (['--size', '9999'], ['--size must be 16 to 4096']),
    'points': (['--points', '1'], ['--points must be at least 8']),
    'device': (['--device', 'gpu'], ["--device 'gpu'"]),
    'beside, no config': (['--beside', 'absent.py', 'x.pth'], ['absent.py']),
    'beside, no checkpoint': (['--beside', 'CONFIG', 'absent.pth'], ['absent.pth']),
    'beside, a checkpoint of something else': (['--beside', 'CONFIG', 'OTHER'], ['OTHER', '--allow-partial-weights']),
}


@pytest.mark.parametrize('case', REFUSED)
def test_wrong_arguments_end_in_one_sentence_before_anything_is_written(
    case: str, tnt: Files, vit: Files, photos: Path, run_tool: Run
) -> None:
    arguments, expected = REFUSED[case]
    names = {'CONFIG': tnt[0], 'OTHER': vit[1]}
    arguments, expected = ([names.get(word, word) for word in words] for words in (arguments, expected))
    refused(run_tool('explain', 'tokens', *tnt, photos, '--out', 'out', *arguments), *expected)


def test_a_checkpoint_of_something_else_and_missing_images_are_refused(
    tnt: Files, vit: Files, photos: Path, tmp_path: Path, run_tool: Run
) -> None:
    command = ['explain', 'tokens', tnt[0]]
    refused(run_tool(*command, vit[1], photos, '--out', 'out'), vit[1], 'does not fit')
    refused(run_tool(*command, tnt[1], 'absent.png', '--out', 'out'), 'absent.png')
    (tmp_path / 'file').touch()
    refused(run_tool(*command, tnt[1], photos, '--out', 'file'), '--out file is a file')
    assert (tmp_path / 'file').stat().st_size == 0


def test_a_diverged_model_is_told_from_a_bad_image(
    make_config: Callable[..., str], tmp_path: Path, photos: Path, run_tool: Run
) -> None:
    config, checkpoint = files_of(make_config(TNT), tmp_path / 'nan.pth')
    content = torch.load(checkpoint)
    content['state_dict']['backbone.patch_embed.proj.weight'] = torch.full_like(
        content['state_dict']['backbone.patch_embed.proj.weight'], torch.nan
    )
    torch.save(content, checkpoint)
    code, output = run_tool('explain', 'tokens', config, checkpoint, photos / 'a.png', '--out', 'out')
    assert code == 2
    assert 'the training has diverged' in output
    assert written('out') == set()  # no page about nothing


def test_the_help_tells_the_defaults_that_hold(capsys: pytest.CaptureFixture[str]) -> None:
    for method, defaults in (
        ('tokens', (f'default: {tokens.CHANNELS})', f'default: {tokens.POINTS})')),
        ('atm', (f'default: {atm_masks.TOP})',)),
        ('cam', (f'default: {cam.TOP})', f'default: {gradcat.RIVALS})')),
        ('gradcat', (f'default: {gradcat_pictures.TOP})', f'default: {gradcat.RIVALS})')),
    ):
        with pytest.raises(SystemExit):
            call_tool('explain', [method, '--help'])
        text = ' '.join(capsys.readouterr().out.split())
        for default in defaults:
            assert default in text
