"""Whose names a file's parameters have, and which command takes it."""

import re
from collections.abc import Iterable

__all__ = ['style_hint']

_STYLES: tuple[tuple[str, str, str | None], ...] = (
    (r'(visual|text|vision_model)\.(transformer\.resblocks|encoder\.layers)\.\d+\.', 'CLIP', None),
    (r'(\w+\.)*encoder\.layers?\.\d+\.(attention\.|self_attn\.|self_attention\.)', 'Hugging Face transformers', None),
    (r'encoder\.layers\.encoder_layer_\d+\.', "torchvision's ViT", None),
    (r'(backbone\.)?blocks\.\d+\.(gamma_[12]|attn\.[qv]_bias|attn\.relative_position_bias_table)', 'BEiT', None),
    (r'(backbone\.)?blocks\.(\d+\.)?\d+\.ls[12]\.gamma', 'a ViT with layer scale (DINOv2, DeiT III)', None),
    (r'(backbone\.)?layers\.\d+\.blocks\.\d+\.attn\.', 'Swin', None),
    (r'(backbone\.)?layer[1-4]\.\d+\.conv1\.', 'a ResNet', None),
    (r'(backbone\.)?layers\.\d+\.attn\.qkv\.', "mmpretrain's ViT", None),
    (r'(backbone\.)?(inner_pos|pixel_pos)', 'TNT', 'tnt'),
    (r'levels\.\d+\.transformer_encoder\.\d+\.', "timm's NesT", 'nest'),
    (r'(backbone\.)?patch_embed1\.proj\.', 'the authors of P2T', 'p2t'),
    (r'(decode_head\.)?(atm\.)?decoder_\d+\.layers\.', 'the authors of SegViT', 'segvit'),
    (r'dist_token', "timm's distilled DeiT, which SPFormer starts from", 'deit'),
    (r'blocks\.\d+\.attn\.qkv\.', "timm's ViT (AugReg, DeiT, DINO, MAE)", 'vit'),
)
"""The beginning of a parameter's name, whose it is, and the method of ``mmvit convert`` that takes such a file."""


def style_hint(names: Iterable[str]) -> str:
    """Half a sentence on foreign names and the way from there; empty where nobody is recognised by them."""
    names = list(names)
    for begin, whose, method in _STYLES:
        if any(re.match(begin, name) for name in names):
            way = (
                f'convert the file with `mmvit convert {method} FILE OUT.pth`' if method else 'no converter takes them'
            )
            return f'; the names are those of {whose}: {way}'
    return ''
