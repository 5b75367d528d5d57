"""AugReg and DeiT backbones in timm's names to ``mmvit_ext.ViT``.

The classifier is left out: a dense backbone has none. The final norm is kept; ``ViT`` drops it by itself when it is
built without one.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .rules import Rule, apply_rules, require_keys

__all__ = [
    'convert_vit',
]

METHOD = 'ViT'

_RULES: tuple[Rule, ...] = (
    (r'(cls_token|pos_embed)', r'\1'),
    (r'patch_embed\.proj\.(weight|bias)', r'patch_embed.projection.\1'),
    (r'blocks\.(\d+)\.norm([12])\.(weight|bias)', r'layers.\1.ln\2.\3'),
    (r'blocks\.(\d+)\.attn\.qkv\.(weight|bias)', r'layers.\1.attn.attn.in_proj_\2'),
    (r'blocks\.(\d+)\.attn\.proj\.(weight|bias)', r'layers.\1.attn.attn.out_proj.\2'),
    (r'blocks\.(\d+)\.mlp\.fc1\.(weight|bias)', r'layers.\1.ffn.layers.0.0.\2'),
    (r'blocks\.(\d+)\.mlp\.fc2\.(weight|bias)', r'layers.\1.ffn.layers.1.\2'),
    (r'norm\.(weight|bias)', r'ln1.\1'),
    (r'head\.(weight|bias)|pre_logits\.fc\.(weight|bias)', None),
)


def convert_vit(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of a plain ViT classifier in timm's names (AugReg, DeiT).

    Args:
        state_dict: timm's names to tensors.

    Returns:
        the names of ``mmvit_ext.ViT`` and mmseg's ``VisionTransformer``, without the classifier.

    Raises:
        ValueError: naming keys that are left over (a distilled DeiT has some) or missing.
    """
    converted = apply_rules(state_dict, _RULES, METHOD)
    require_keys(converted, ('cls_token', 'pos_embed', 'patch_embed.projection.weight'), METHOD)
    return converted
