"""SPFormer against a plain ViT on the mini dataset: ``python -m benchmarks.superpixel_evidence --data data/mini``.

SETR with superpixel logits on a small SPFormer, and naive SETR on a DeiT of as many blocks of the same width, both from
scratch, under the same budget and with the same seeds. On the held-out images: mIoU, mIoU on the pixels near label
edges, and the best mIoU that SPFormer's superpixels allow beside that of patches and of SLIC. Runs that are there
already are not repeated.
"""

from __future__ import annotations

import json
import statistics
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.harness import describe_machine
from benchmarks.mini_runs import ROOT, Run, each, run_arguments, spread, train
from mmvit_ext.config.loading import load_config
from mmvit_ext.evaluation.loop import build_test_loader, evaluate
from mmvit_ext.evaluation.quality_table import superpixel_quality
from mmvit_ext.inference.predictor import Predictor

CONFIGS = ROOT / 'configs' / 'spformer'
BUDGET = '1xb8-300_mini-ade20k-192x192.py'
MODELS = {
    'DeiT + SETR-naive': CONFIGS / f'setr-naive_deit-mini_{BUDGET}',
    'SPFormer + SuperpixelHead': CONFIGS / f'setr-superpixel_spformer-mini_{BUDGET}',
}


def bounds(run: Run, data_root: str) -> dict[str, float]:
    """Best mIoU of each kind of regions; kept beside the run."""
    record = run.work_dir.with_suffix('.bounds.json')
    if not record.exists():
        rows = superpixel_quality(
            MODELS['SPFormer + SuperpixelHead'],
            run.checkpoint,
            device='cpu',
            cfg_options={'data_root': data_root},
        )
        record.write_text(json.dumps({name: best for name, best, _ in rows}))
    return json.loads(record.read_text())


def without_lifting(run: Run, data_root: str) -> dict[str, float]:
    """The trained SPFormer with its superpixel logits resized bilinearly as SETR-naive does; kept beside the run."""
    record = run.work_dir.with_suffix('.bilinear.json')
    if not record.exists():
        config = MODELS['SPFormer + SuperpixelHead']
        cfg = load_config(config, {'data_root': data_root})
        predictor = Predictor(cfg, run.checkpoint, torch.device('cpu'))
        head: Any = predictor.model.decode_head
        head.forward = lambda inputs: head.classify(inputs[head.in_index])
        record.write_text(json.dumps(evaluate(predictor, build_test_loader(cfg), cfg.test_evaluator)))
    return json.loads(record.read_text())


def main() -> int:
    args = run_arguments(__doc__ or '', 'work_dirs/superpixel_evidence')
    data_root = str(args.data / 'ade' / 'ADEChallengeData2016')
    runs: dict[str, list[Run]] = {model: [] for model in MODELS}
    for seed in args.seeds:
        for model, config in MODELS.items():
            name = config.name.split('_1xb8')[0]
            runs[model].append(train(config, name, seed, args.out, [f'data_root={data_root}']))
    table = Table(title=f'Mini dataset, {len(args.seeds)} seeds')
    for name in ('model', 'mIoU', 'of each seed', 'mIoU near edges', 'of each seed', 'minutes of training'):
        table.add_column(name, justify='left' if name == 'model' else 'right')
    superpixels = runs['SPFormer + SuperpixelHead']
    rows = {model: [run.metrics for run in results] for model, results in runs.items()}
    rows['the same, logits resized bilinearly'] = [without_lifting(run, data_root) for run in superpixels]
    for model, figures in rows.items():
        mious, edges = ([figure[name] for figure in figures] for name in ('mIoU', 'trimap/mIoU'))
        minutes = statistics.mean(run.minutes for run in runs[model]) if model in runs else None
        shown = f'{minutes:.1f}' if minutes else ''
        table.add_row(model, spread(mious), each(mious), spread(edges), each(edges), shown)
    console = Console(width=120)
    console.print(table)

    table = Table(title='Best mIoU that regions allow')
    table.add_column('regions')
    table.add_column('best mIoU', justify='right')
    table.add_column('of each seed', justify='right')
    measured = [bounds(run, data_root) for run in superpixels]
    for name in measured[0]:
        values = [figures[name] for figures in measured]
        table.add_row(name, spread(values), each(values))
    console.print(table)
    console.print(', '.join(f'{key}: {value}' for key, value in describe_machine(torch.device('cpu')).items()))
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
