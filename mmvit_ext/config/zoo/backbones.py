"""The backbones of the zoo, one row each; a new one costs one row."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ['BACKBONES', 'BackboneRow']

Pixels = tuple[tuple[float, float, float], tuple[float, float, float]]

IMAGENET: Pixels = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
HALF: Pixels = ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
CLIP: Pixels = ((122.771, 116.746, 104.094), (68.501, 66.632, 70.323))
"""Mean and standard deviation of an image's channels, RGB, 0 to 255."""

NORM = dict(norm_cfg=dict(type='LN', eps=1e-6))
OPTIONS: dict[str, dict[str, Any]] = {'ViT': dict(patch_bias=True, **NORM), 'SPFormer': NORM}
"""What the published configs set for all sizes of a backbone."""

STORED_SIZE = ('ViT', 'TNT', 'SPFormer')
"""Backbones whose position embeddings are made for ``img_size``."""


class BackboneRow(NamedTuple):
    """A backbone: its class, its size, what its head has to know, and which weights were published."""

    type: str
    arch: Any  # the argument arch, or the name in timm
    widths: tuple[int, ...]  # one for each map of a pyramid, a single one where all blocks have maps of one stride
    depth: int = 12  # blocks
    drop_path: float = 0.1
    pixels: Pixels = IMAGENET
    licence: str = ''  # of the published weights, empty where there are none
    token: bool = True  # whether the class token is what a classifier takes
    patch: int = 16  # of the published weights
    head_width: int = 256  # of feature pyramids and of what stands on them

    @property
    def plain(self) -> bool:
        """Whether all blocks have maps of one stride."""
        return len(self.widths) == 1

    @property
    def weights(self) -> str:
        """Where the published weights come from: ``'timm'``, ``'file'`` (to be converted) or ``'none'``."""
        return 'timm' if self.type == 'TimmViT' else 'file' if self.licence else 'none'

    def config(self, *, channels: int, img_size: tuple[int, int] | None) -> dict[str, Any]:
        """The ``backbone`` of a config, without its outputs."""
        config: dict[str, Any] = {
            'type': f'mmvit_ext.{self.type}',
            'model' if self.type == 'TimmViT' else 'arch': self.arch,
        }
        config.update(OPTIONS.get(self.type, {}), drop_path_rate=self.drop_path)
        if channels != 3:
            config['in_channels'] = channels
        if img_size is not None and self.type in STORED_SIZE:
            config['img_size'] = img_size
        return config

    def pixels_of(self, channels: int) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each of three channels, or of all channels of another number of them."""
        mean, std = (list(values) if channels == 3 else [round(sum(values) / 3, 3)] for values in self.pixels)
        return mean, std


def _timm(arch: str, width: int, depth: int = 12, licence: str = 'Apache-2.0', **more: Any) -> BackboneRow:
    return BackboneRow('TimmViT', arch, (width,), depth, licence=licence, **more)


P2T = 'CC BY-NC-SA 4.0'
META = 'DINOv3 licence'
MAE = 'CC BY-NC 4.0'

MINI = dict(embed_dims=(32, 64, 128, 192), num_heads=(1, 2, 4, 6), depths=(1, 1, 2, 1), mlp_ratios=(4, 4, 4, 4))
"""A P2T that a CPU trains from scratch in minutes; no paper has it."""

BACKBONES = {
    'vit-t': BackboneRow('ViT', 'tiny', (192,), pixels=HALF, licence='Apache-2.0'),
    'vit-s': BackboneRow('ViT', 'small', (384,), pixels=HALF, licence='Apache-2.0'),
    'vit-b': BackboneRow('ViT', 'base', (768,), pixels=HALF, licence='Apache-2.0'),
    'vit-l': BackboneRow('ViT', 'large', (1024,), 24, 0.3, pixels=HALF, licence='Apache-2.0'),
    'deit-t': BackboneRow('ViT', 'tiny', (192,), licence='Apache-2.0'),
    'deit-s': BackboneRow('ViT', 'small', (384,), licence='Apache-2.0'),
    'deit-b': BackboneRow('ViT', 'base', (768,), licence='Apache-2.0'),
    'tnt-t': BackboneRow('TNT', 'tiny', (192,), pixels=HALF),
    'tnt-s': BackboneRow('TNT', 'small', (384,), pixels=HALF, licence='Apache-2.0'),
    'tnt-b': BackboneRow('TNT', 'base', (640,), pixels=HALF, licence='Apache-2.0'),
    'spformer-t': BackboneRow('SPFormer', 'tiny', (192,), token=False),
    'spformer-s': BackboneRow('SPFormer', 'small', (384,), token=False),
    'spformer-b': BackboneRow('SPFormer', 'base', (768,), token=False),
    'nest-t': BackboneRow('NesT', 'tiny', (96, 192, 384, 768), 12, 0.2, licence='Apache-2.0'),
    'nest-s': BackboneRow('NesT', 'small', (96, 192, 384, 768), 24, 0.3, licence='Apache-2.0'),
    'nest-b': BackboneRow('NesT', 'base', (128, 256, 512, 1024), 24, 0.5, licence='Apache-2.0'),
    'p2t-t': BackboneRow('P2T', 'tiny', (48, 96, 240, 384), 13, licence=P2T),
    'p2t-s': BackboneRow('P2T', 'small', (64, 128, 320, 512), 16, licence=P2T),
    'p2t-b': BackboneRow('P2T', 'base', (64, 128, 320, 512), 28, 0.3, licence=P2T),
    'p2t-l': BackboneRow('P2T', 'large', (64, 128, 320, 640), 41, 0.3, licence=P2T),
    'p2t-mini': BackboneRow('P2T', MINI, MINI['embed_dims'], 5, 0.0, head_width=64),
    'augreg-t': _timm('vit_tiny_patch16_224.augreg_in21k', 192, pixels=HALF),
    'augreg-s': _timm('vit_small_patch16_224.augreg_in21k', 384, pixels=HALF),
    'augreg-b': _timm('vit_base_patch16_224.augreg_in21k', 768, pixels=HALF),
    'augreg-l': _timm('vit_large_patch16_224.augreg_in21k', 1024, 24, pixels=HALF),
    'deit3-s': _timm('deit3_small_patch16_224.fb_in22k_ft_in1k', 384),
    'deit3-b': _timm('deit3_base_patch16_224.fb_in22k_ft_in1k', 768),
    'deit3-l': _timm('deit3_large_patch16_224.fb_in22k_ft_in1k', 1024, 24),
    'mae-b': _timm('vit_base_patch16_224.mae', 768, licence=MAE),
    'mae-l': _timm('vit_large_patch16_224.mae', 1024, 24, licence=MAE),
    'beit-b': _timm('beit_base_patch16_224.in22k_ft_in22k', 768, pixels=HALF),
    'beit-l': _timm('beit_large_patch16_224.in22k_ft_in22k', 1024, 24, pixels=HALF),
    'beitv2-b': _timm('beitv2_base_patch16_224.in1k_ft_in22k', 768),
    'beitv2-l': _timm('beitv2_large_patch16_224.in1k_ft_in22k', 1024, 24),
    'eva02-t': _timm('eva02_tiny_patch14_224.mim_in22k', 192, pixels=CLIP, licence='MIT', patch=14),
    'eva02-s': _timm('eva02_small_patch14_224.mim_in22k', 384, pixels=CLIP, licence='MIT', patch=14),
    'eva02-b': _timm('eva02_base_patch14_224.mim_in22k', 768, pixels=CLIP, licence='MIT', patch=14),
    'eva02-l': _timm('eva02_large_patch14_448.mim_m38m_ft_in22k', 1024, 24, pixels=CLIP, licence='MIT', patch=14),
    'dinov2-s': _timm('vit_small_patch14_dinov2.lvd142m', 384, patch=14),
    'dinov2-b': _timm('vit_base_patch14_dinov2.lvd142m', 768, patch=14),
    'dinov2-l': _timm('vit_large_patch14_dinov2.lvd142m', 1024, 24, patch=14),
    'dinov2-reg-s': _timm('vit_small_patch14_reg4_dinov2.lvd142m', 384, patch=14),
    'dinov2-reg-b': _timm('vit_base_patch14_reg4_dinov2.lvd142m', 768, patch=14),
    'dinov2-reg-l': _timm('vit_large_patch14_reg4_dinov2.lvd142m', 1024, 24, patch=14),
    'dinov3-s': _timm('vit_small_patch16_dinov3.lvd1689m', 384, licence=META),
    'dinov3-b': _timm('vit_base_patch16_dinov3.lvd1689m', 768, licence=META),
    'dinov3-l': _timm('vit_large_patch16_dinov3.lvd1689m', 1024, 24, licence=META),
    'clip-b': _timm('vit_base_patch16_clip_224.openai', 768, pixels=CLIP),
    'clip-l': _timm('vit_large_patch14_clip_224.openai', 1024, 24, pixels=CLIP, patch=14),
    'siglip2-b': _timm('vit_base_patch16_siglip_256.v2_webli', 768, pixels=HALF, token=False),
    'siglip2-l': _timm('vit_large_patch16_siglip_256.v2_webli', 1024, 24, pixels=HALF, token=False),
    'sam-b': _timm('samvit_base_patch16.sa1b', 256, token=False),
    'sam-l': _timm('samvit_large_patch16.sa1b', 256, 24, token=False),
}
