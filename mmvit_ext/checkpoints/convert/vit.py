"""Convert AugReg and DeiT backbones in timm's names to ``mmvit_ext.ViT``.

The classifier is left out: a dense backbone has none. The final norm is kept; ``ViT`` drops it by itself when it is
built without one.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .rules import Rule, apply_rules, require_keys

__all__ = ['BLOCK_RULES', 'convert_vit']

METHOD = 'ViT'

_P = r'(weight|bias)'

BLOCK_RULES: tuple[Rule, ...] = (
    (rf'blocks\.(\d+)\.norm([12])\.{_P}', r'layers.\1.ln\2.\3'),
    (rf'blocks\.(\d+)\.attn\.qkv\.{_P}', r'layers.\1.attn.attn.in_proj_\2'),
    (rf'blocks\.(\d+)\.attn\.proj\.{_P}', r'layers.\1.attn.attn.out_proj.\2'),
    (rf'blocks\.(\d+)\.mlp\.fc1\.{_P}', r'layers.\1.ffn.layers.0.0.\2'),
    (rf'blocks\.(\d+)\.mlp\.fc2\.{_P}', r'layers.\1.ffn.layers.1.\2'),
)
"""The blocks of timm's plain ViT, which are those of mmcv and mmseg."""

_RULES: tuple[Rule, ...] = (
    *BLOCK_RULES,
    (r'(cls_token|pos_embed)', r'\1'),
    (rf'patch_embed\.proj\.{_P}', r'patch_embed.projection.\1'),
    (rf'norm\.{_P}', r'ln1.\1'),
    # A classifier, the norm of the mean of all tokens before one, and the decoder of masked autoencoders.
    (rf'(head|pre_logits\.fc|fc_norm)\.{_P}', None),
    (r'(mask_token|decoder_.*)', None),
)


def convert_vit(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of a plain ViT classifier in timm's names (AugReg, DeiT).

    Returns:
        The names of ``mmvit_ext.ViT`` and mmseg's ``VisionTransformer``, without the classifier.

    Raises:
        ValueError: Names keys that are left over (a distilled DeiT has some) or missing.
    """
    converted = apply_rules(state_dict, _RULES, METHOD)
    require_keys(converted, ('cls_token', 'pos_embed', 'patch_embed.projection.weight'), METHOD)
    return converted
