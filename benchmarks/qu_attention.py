"""Where query-based upsampling looks: ``python -m benchmarks.qu_attention CHECKPOINT ...``.

For checkpoints of the Shrunk step of ``benchmarks.shrunk_ladder``: the perplexity of the cross-attention weights of
every layer of both QU levels, in tokens, the share of the weight on the 3x3 tokens around a query's own place (first
level), and the share of the queries' energy that differs from place to place. Uniform weights have the perplexity of
the number of tokens; queries that are all alike have the share 0.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from benchmarks.shrunk_ladder import config_of
from mmvit_ext.checkpoints.reading import extract_state_dict, read_checkpoint
from mmvit_ext.models.decode_heads.shrunk_atm_head import QUERY_STARTS
from mmvit_ext.models.layers.attention import PackedAttention


def attention_weights(module: PackedAttention, query: Tensor, memory: Tensor) -> Tensor:
    """Mean over batch and heads of the attention weights ``(N, L)``."""
    C, heads = query.shape[-1], module.num_heads
    weight, bias = module.in_proj_weight, module.in_proj_bias
    q, k = query @ weight[:C].T + bias[:C], memory @ weight[C : 2 * C].T + bias[C : 2 * C]
    q, k = (x.unflatten(-1, (heads, C // heads)).transpose(1, 2) for x in (q, k))
    return (q @ k.transpose(-2, -1) / (C // heads) ** 0.5).softmax(-1).mean((0, 1))


def near_share(weights: Tensor, grid: tuple[int, int]) -> float:
    """Mean share of the weight on the 3x3 tokens around each query's own place."""
    h, w = grid
    rows, columns = torch.arange(h * w) // w, torch.arange(h * w) % w
    near = ((rows[:, None] - rows).abs() <= 1) & ((columns[:, None] - columns).abs() <= 1)
    return float((weights * near).sum(1).mean())


def varying_share(queries: Tensor) -> float:
    """Share of the energy of queries ``(B, N, D)`` that differs within an image."""
    return float((queries - queries.mean(1, keepdim=True)).square().sum() / queries.square().sum())


def look(model: nn.Module, img: Tensor) -> list[str]:
    """What is told about every layer of both levels."""
    found: list[str] = []

    def record(module: nn.Module, inputs: tuple[Tensor, Tensor], _: Tensor) -> None:
        weights = attention_weights(module, *inputs)
        perplexity = float((-(weights * weights.log()).sum(1)).mean().exp())
        near = f', near {near_share(weights, grid):.1%}' if weights.shape[0] == weights.shape[1] else ''
        found.append(f'{perplexity:.1f} of {weights.shape[1]}{near}, varying {varying_share(inputs[0]):.1%}')

    grid = model.decode_head.query_grid
    layers = [layer for level in model.decode_head.levels for layer in level.layers]
    hooks = [layer.cross_attn.register_forward_hook(record) for layer in layers]
    with torch.no_grad():
        model.decode_head.decode(model.extract_feat(img))
    for hook in hooks:
        hook.remove()
    return found


def main() -> int:
    """Print a line per checkpoint, and one for the fresh network."""
    from mmcv import imread, imresize
    from mmseg.registry import MODELS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('checkpoints', nargs='+', type=Path)
    parser.add_argument('--data', type=Path, default=Path('data/mini'), help='mini dataset (default: data/mini)')
    parser.add_argument('--query-start', choices=QUERY_STARTS, default='tokens', help='of the head (default: tokens)')
    args = parser.parse_args()
    cfg = Config.fromfile(config_of('(c) QD + QU'))
    cfg.model.decode_head.query_start = args.query_start
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model).eval()
    folder = args.data / 'ade' / 'ADEChallengeData2016' / 'images' / 'validation'
    images = [
        imresize(imread(str(path), channel_order='rgb'), cfg.crop_size) for path in sorted(folder.glob('*.jpg'))[:8]
    ]
    img = torch.stack([torch.from_numpy(image).permute(2, 0, 1).float() for image in images])
    img = (img - 127.5) / 127.5
    for checkpoint in [None, *args.checkpoints]:
        if checkpoint is not None:
            model.load_state_dict(extract_state_dict(read_checkpoint(checkpoint), checkpoint))
        print(f'{checkpoint or "fresh"}: perplexity of every layer')
        print('\n'.join(f'  {line}' for line in look(model, img)))
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
