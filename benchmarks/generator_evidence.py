"""NesT's generator against a convolutional one: ``python -m benchmarks.generator_evidence --data data/mini``.

Two generators of as many parameters learn the mini dataset in ImageNet's layout at 32x32 pixels against the same
discriminator, with the same budget and seeds. The Fréchet distance (FID) to the training images, untrained and in the
course of training, by the features of the mini NesT classifier (`extractor.pth` in the folder of the runs, trained
first if it is not there); the smaller the better. Runs that are there already are not repeated.
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.table import Table

from benchmarks.curves import Curve, draw_curves
from benchmarks.harness import describe_machine
from benchmarks.mini_runs import ROOT, Run, course, each, run_arguments, spread, train
from mmvit_ext.config.loading import load_config, prepare_scope
from mmvit_ext.evaluation.loop import build_test_loader
from mmvit_ext.inference.predictor import Predictor
from mmvit_ext.inference.sheets import image_grid
from mmvit_ext.models.generators.adversarial import noise_of
from mmvit_ext.registry import METRICS, MODELS

METRIC = 'FID'
SHOWN = 64
EXTRACTOR = ROOT / 'configs' / 'nest' / 'nest-mini_1xb8-450_mini-imagenet-96x96.py'
BUDGET = '1xb16-400_mini-imagenet-32x32.py'
COMPARED = {
    'convolutions': ROOT / 'configs' / 'nest' / f'conv-generator-mini_{BUDGET}',
    'NesT': ROOT / 'configs' / 'nest' / f'nest-generator-mini_{BUDGET}',
}


def data_options(data: Path) -> list[str]:
    """Where the dataset lies, as options of a command."""
    return [f'{split}_dataloader.dataset.data_root={data}/imagenet' for split in ('train', 'val', 'test')]


def parameters(config: Path) -> int:
    """Of the generator."""
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    return sum(parameter.numel() for parameter in MODELS.build(cfg.model.generator).parameters())


def untrained(config: Path, seed: int, out: Path, options: Sequence[str]) -> float:
    """Distance before the first iteration; kept beside the runs."""
    record = out / f'{config.name.split("_1xb16")[0]}_seed{seed}.untrained.json'
    if not record.exists():
        cfg = load_config(config, dict(option.split('=', 1) for option in options))
        scope = prepare_scope(cfg)
        init_default_scope(scope)
        torch.manual_seed(seed)
        model = MODELS.build(cfg.model)
        model.init_weights()
        model.eval()
        loader = build_test_loader(cfg)
        metric = METRICS.build(cfg.test_evaluator)
        for batch in loader:
            metric.process(batch, [sample.to_dict() for sample in model.test_step(batch)])
        record.write_text(json.dumps(metric.evaluate(len(loader.dataset))))
    return json.loads(record.read_text())[METRIC]


def draw_samples(runs: Mapping[str, Run], path: Path, data: Path) -> Path:
    """Real images and what the generators make of the same noise, side by side.

    Args:
        runs: by the generator's name.
        path: the picture to write.
        data: folder of the mini dataset.

    Returns:
        The path.
    """
    options = dict(option.split('=', 1) for option in data_options(data))
    cfg = load_config(COMPARED['NesT'], options)
    init_default_scope(prepare_scope(cfg))
    dataset = build_test_loader(cfg).dataset
    step = len(dataset) // SHOWN
    real = torch.stack([dataset[index * step]['inputs'] for index in range(SHOWN)]).flip(1)  # loaded as BGR
    panels = {'training images': real}
    for name, run in runs.items():
        predictor = Predictor(load_config(COMPARED[name]), run.checkpoint, torch.device('cpu'))
        model: Any = predictor.model
        panels[f'{name}, {run.history[-1]["step"]} iterations'] = model.sample(
            noise_of(0, range(SHOWN), model.noise_dims)
        )
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 5.3), layout='constrained')
    for axis, (title, images) in zip(axes, panels.items(), strict=True):
        axis.imshow(image_grid(images, 8), interpolation='nearest')
        axis.set(title=title)
        axis.axis('off')
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def main() -> int:
    args = run_arguments(__doc__ or '', 'work_dirs/generator_evidence')
    extractor = args.out / 'extractor.pth'
    if not extractor.exists():
        classifier = train(EXTRACTOR, 'nest-mini', 0, args.out, data_options(args.data))
        shutil.copy(classifier.checkpoint, extractor)
    options = data_options(args.data) + [f'{split}_evaluator.checkpoint={extractor}' for split in ('val', 'test')]
    runs: dict[str, list[Run]] = {model: [] for model in COMPARED}
    before: dict[str, list[float]] = {model: [] for model in COMPARED}
    for seed in args.seeds:
        for model, config in COMPARED.items():
            runs[model].append(train(config, config.name.split('_1xb16')[0], seed, args.out, options))
            before[model].append(untrained(config, seed, args.out, options))

    table = Table(title=f'FID on the mini dataset, {len(args.seeds)} seeds')
    for name in ('generator', 'parameters', 'untrained', 'trained', 'of each seed', 'best on the way', 'minutes'):
        table.add_column(name, justify='left' if name == 'generator' else 'right')
    for model, results in runs.items():
        ends = [run.metrics[METRIC] for run in results]
        best = [min(line[METRIC] for line in run.history) for run in results]
        minutes = statistics.mean(run.minutes for run in results)
        size = f'{parameters(COMPARED[model])}'
        table.add_row(model, size, spread(before[model]), spread(ends), each(ends), each(best), f'{minutes:.1f}')
    console = Console(width=120)
    console.print(table)
    curves = [Curve(model, *course(results, METRIC)) for model, results in runs.items()]
    panels = [('Mini dataset, 32x32', 'iterations', 'FID', curves)]
    path = draw_curves(args.out / 'generator_evidence.png', panels, scale='log')
    machine = ', '.join(f'{key}: {value}' for key, value in describe_machine(torch.device('cpu')).items())
    samples = draw_samples({name: run[0] for name, run in runs.items()}, args.out / 'generator_samples.png', args.data)
    console.print(f'curves in {path}, images in {samples}; {machine}')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
