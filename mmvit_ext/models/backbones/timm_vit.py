"""Plain vision transformers of timm as dense backbones, from AugReg and MAE to DINOv3, SigLIP 2 and SAM.

The networks, their names and their weights are timm's (https://github.com/huggingface/pytorch-image-models). This file
adapts ``forward_intermediates`` to what mmsegmentation, mmdetection and mmpretrain expect of a backbone, and imports
timm when a network is built, not before.

Shapes: B batch, C width, p edge of a patch in pixels, (h, w) = (ceil(H / p), ceil(W / p)).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader, load_from_local, load_state_dict
from torch import Tensor, nn

from mmvit_ext.errors import UserError
from mmvit_ext.models.backbones.base import Backbone, MapInfo, Tokens, checkpointed, normalised_by_mean
from mmvit_ext.models.layers.attention import check_rates
from mmvit_ext.models.layers.open_sizes import cover, is_open
from mmvit_ext.models.layers.position_embedding import track_position
from mmvit_ext.registry import MODELS

__all__ = ['TimmViT', 'published_weights']

OTHER_NETWORKS = {
    'tnt': 'mmvit_ext.TNT is this network for dense prediction',
    'nest': 'mmvit_ext.NesT is this network for dense prediction',
    'jx_nest': 'mmvit_ext.NesT is this network for dense prediction',
    'pvt': 'mmvit_ext.P2T is the pyramid of this package',
    'swin': 'mmseg.SwinTransformer is this network for dense prediction',
}
"""Networks that are no plain ViT, by the start of their name in timm, and what serves in their place."""

HEADS = ('head', 'classifier', 'pooler', 'head_dist', 'fc_norm', 'attn_pool', 'head_drop')
"""Parts of a classifier behind the last norm."""

TRANSFORMERS_NAMES = (
    (r'^(?:\w+\.)?(?=(?:embeddings|encoder|layernorm)\.)', ''),
    (r'^embeddings\.position_embeddings', 'pos_embed'),
    (r'^embeddings\.patch_embeddings\.projection', 'patch_embed.proj'),
    (r'^embeddings\.', ''),
    (r'^layernorm', 'norm'),
    (r'^encoder\.layer\.', 'blocks.'),
    (r'\.layernorm_before\.', '.norm1.'),
    (r'\.layernorm_after\.', '.norm2.'),
    (r'\.attention\.output\.dense', '.attn.proj'),
    (r'\.attention\.attention\.', '.attn.'),
    (r'\.layer_scale(\d)\.lambda1', r'.ls\1.gamma'),
    (r'\.mlp\.weights_in\.', '.mlp.w12.'),
    (r'\.mlp\.weights_out\.', '.mlp.w3.'),
    (r'\.intermediate\.dense', '.mlp.fc1'),
    (r'\.output\.dense', '.mlp.fc2'),
)
"""Names of Hugging Face's transformers (ViT, DeiT, DINOv2, with registers or without) and those of the authors."""

HINT = 'any network of timm with feature maps is mmpretrain.TIMMBackbone(features_only=True)'


def import_timm() -> Any:
    """Import timm, or say how to get it."""
    try:
        import timm
    except ImportError as error:
        raise UserError('mmvit_ext.TimmViT needs timm: install it with pip install timm') from error
    return timm


def published_weights(model: str) -> Any:
    """What timm states of the weights of a name (``mean``, ``std``, ``license``); without a tag, of its default ones.

    None for a network that timm does not know.

    Raises:
        RuntimeError: The network has no weights with the tag of the name.
    """
    import_timm()
    from timm.models import get_pretrained_cfg

    return get_pretrained_cfg(model)


def licences(model: str) -> list[str]:
    """The licences of the weights that a name may stand for: without a tag, those of all its tags."""
    tagged = [] if '.' in model else import_timm().list_pretrained(f'{model}.*')
    return sorted({published_weights(name).license or 'not stated' for name in tagged or [model]})


def create_network(model: str, **settings: Any) -> Any:
    """Build a network of timm without its classifier.

    Raises:
        UserError: timm does not know the name or its tag, or the network is no plain vision transformer.
    """
    timm = import_timm()
    from timm.layers import PatchEmbed
    from timm.models import get_arch_pretrained_cfgs
    from timm.models.beit import Beit
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer
    from timm.models.vision_transformer_sam import VisionTransformerSAM

    architecture = model.partition('.')[0]
    serves = next((text for name, text in OTHER_NETWORKS.items() if architecture.startswith(name)), HINT)
    if not timm.is_model(architecture):
        close = timm.list_models(f'*{architecture.rpartition("_")[0] or architecture}*')[:5]
        raise UserError(f'model={model!r} is no network of timm {timm.__version__}; close names: {close}')
    tagged = get_arch_pretrained_cfgs(architecture)
    if tagged and '.' in model and model not in tagged:
        raise UserError(f'model={model!r}: timm {timm.__version__} has no weights of this tag, but {", ".join(tagged)}')
    module = timm.model_entrypoint(architecture).__module__
    if module.rpartition('.')[2] in ('vision_transformer', 'eva', 'deit'):
        settings['dynamic_img_size'] = True
    try:
        network = timm.create_model(model, num_classes=0, **settings)
    except TypeError as error:
        raise UserError(f'model={model!r} cannot be built as a plain vision transformer ({error}): {serves}') from error
    plain = isinstance(network, VisionTransformer | Eva | Beit | VisionTransformerSAM)
    if not plain or not isinstance(network.patch_embed, PatchEmbed):
        raise UserError(f"model={model!r} is no plain vision transformer but timm's {type(network).__name__}: {serves}")
    # Where timm classifies by the mean of the patches, it holds the last norm for behind that mean.
    last, behind_mean = getattr(network, 'norm', None), getattr(network, 'fc_norm', None)
    network.norms_the_mean = isinstance(last, nn.Identity) and not isinstance(behind_mean, nn.Identity | None)
    if network.norms_the_mean:
        network.norm = behind_mean
    for name in HEADS:
        if isinstance(getattr(network, name, None), nn.Module):
            delattr(network, name)
    network.patch_embed.strict_img_size = False
    return network


def from_transformers(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename what Hugging Face's transformers store to the authors' names; query, key and value become one tensor."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in state_dict.items():
        for pattern, replacement in TRANSFORMERS_NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    for name in [name for name in renamed if '.attn.query.' in name]:
        parts = [renamed.pop(name.replace('.query.', f'.{part}.')) for part in ('query', 'key', 'value')]
        renamed[name.replace('.query.', '.qkv.')] = torch.cat(parts)
    return renamed


class BeforeNorm(NamedTuple):
    """A map ``(B, C, h, w)`` and the norm that its mean gets."""

    map: Tensor
    norm: Any


@MODELS.register_module()
class TimmViT(Backbone):
    """A plain vision transformer of timm that returns feature maps of chosen blocks at any image size.

    Position embeddings and rotary grids are made for the true grid of the image, and BEiT's relative position bias is
    resized to it. Class tokens and registers take part and stay out of the maps. Parameter names are timm's behind
    ``net.``; state dicts in timm's own names load as well, and so do those of the networks' authors that timm knows
    (DINOv2, DINOv3, BEiT v2, EVA, CLIP) and those of Hugging Face's transformers (ViT, DeiT, DINOv2).

    Args:
        model: Name in timm, with or without the tag of its weights, for example ``'vit_base_patch14_dinov2.lvd142m'``.
        out_indices: Blocks whose output is returned, in this order; negative values count from the end.
        checkpoint: ``'timm'`` downloads the weights of ``model`` from timm's hub when the model is initialised; a path
            names a file (.pth or .safetensors) in the names of timm or of the authors; None gives random weights.
        shrink_index: Block that halves the grid by downsampling its queries, counted from 0, see
            :class:`mmvit_ext.ShrunkViT`, where the paper's are. None keeps the grid.
        img_size: Size in pixels, an edge or ``(H, W)``, for which the stored position embeddings are made; timm's own
            when not given. Images of other sizes are taken as well; BEiT is fastest at this one.
        in_channels: Image channels; timm folds the weights of its patches for other numbers than 3.
        final_norm: ``'all'`` (every output goes through timm's last norm, as DINOv2's authors do; SAM's neck is that
            norm), ``'last'`` (the last block's output only) or ``'none'``. Where timm classifies by the mean of the
            patches (BEiT, EVA, EVA-02, ``*_gap``), that norm is timm's ``fc_norm``, which is applied behind the mean:
            here, too, for ``out_type='avg_featmap'``.
        out_type: ``'featmap'`` for maps; ``'cls_token'`` for the class token ``(B, C)`` and ``'avg_featmap'`` for the
            mean ``(B, C)`` over the patches, which a linear classifier takes without a neck.
        drop_path_rate: Stochastic depth of the last block, growing linearly from 0 at the first, a probability.
        frozen_stages: -1 trains everything, 0 freezes the embedding, k the first k blocks too.
        with_cp: Activation checkpointing of every block in training.
        init_cfg: Initialisation, mmengine style; not together with ``checkpoint``.
        **kwargs: Further arguments of timm's network, for example ``depth`` or ``patch_size``.

    Shape:
        Input ``(B, in_channels, H, W)``, any H and W; outputs ``(B, C, ceil(H / p), ceil(W / p))`` each, from block
        ``shrink_index`` on half of that, rounded up.

    Raises:
        UserError: timm is missing, does not know the model, or the model is no plain vision transformer.
        ValueError: Another argument is unknown, out of range, or contradicts another one.

    Attributes:
        net: timm's network.
        licence: Licence of the published weights as timm states it, or None.
        mean: Mean of the images for which the published weights are made, in 0..255 and RGB.
        std: Standard deviation of these images in the same units.
    """

    OUT_TYPES: tuple[str, ...] = ('featmap', 'cls_token', 'avg_featmap')

    def __init__(
        self,
        model: str,
        *,
        out_indices: int | Sequence[int] = -1,
        checkpoint: str | None = None,
        shrink_index: int | None = None,
        img_size: int | Sequence[int] | None = None,
        in_channels: int = 3,
        final_norm: str = 'all',
        out_type: str = 'featmap',
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
        **kwargs: Any,
    ) -> None:
        if checkpoint is not None and init_cfg is not None:
            raise ValueError(f'give either checkpoint={checkpoint!r} or init_cfg')
        if checkpoint not in (None, 'timm'):
            init_cfg = {'type': 'Pretrained', 'checkpoint': checkpoint}
        super().__init__(out_type=out_type, frozen_stages=frozen_stages, with_cp=with_cp, init_cfg=init_cfg)
        if final_norm not in ('all', 'last', 'none'):
            raise ValueError(f"final_norm must be 'all', 'last' or 'none', got {final_norm!r}")
        more_rates = {name: value for name, value in kwargs.items() if name.endswith('drop_rate')}
        check_rates(drop_path_rate=drop_path_rate, **more_rates)
        self.checkpoint, self.final_norm = checkpoint, final_norm
        self.settings = {'model': model, 'in_chans': in_channels, 'drop_path_rate': drop_path_rate, **kwargs}
        if img_size is not None:
            self.settings['img_size'] = img_size if isinstance(img_size, int) else tuple(img_size)
        self.net: Any = create_network(**self.settings)
        from mmvit_ext.models.backbones import timm_positions

        timm_positions.call_every_layer(self.net)
        published: Mapping[str, Any] = self.net.pretrained_cfg
        self.licence = published.get('license')
        self.mean = tuple(255 * value for value in published['mean'])
        self.std = tuple(255 * value for value in published['std'])

        self.num_prefix_tokens = getattr(self.net, 'num_prefix_tokens', 0)
        if getattr(self.net, 'cls_token', None) is None:
            self.OUT_TYPES = ('featmap', 'avg_featmap')
            if out_type == 'cls_token':
                raise ValueError(f"out_type='cls_token' needs a class token, and {model} has none: take 'avg_featmap'")
        stride, depth = self.net.patch_embed.patch_size[0], len(self.net.blocks)
        self.last_norm = next(name for name in ('neck', 'norm') if hasattr(self.net, name))
        self.shrink_index = depth if shrink_index is None else shrink_index
        if shrink_index is not None:
            if not 0 <= shrink_index < depth:
                raise ValueError(f'shrink_index must name one of {depth} blocks, got {shrink_index}')
            from mmvit_ext.models.backbones.timm_shrunk import shrink_from

            shrink_from(self.net, shrink_index)
        widths = [
            self.net.num_features if self._is_normed(index, depth) else self.net.embed_dim for index in range(depth)
        ]
        self.declare(
            {
                f'net.blocks.{index}': MapInfo(width, stride * (1 + (index >= self.shrink_index)))
                for index, width in enumerate(widths)
            },
            out_indices,
            last=(f'net.{self.last_norm}',),
        )
        if (position := getattr(self.net, 'pos_embed', None)) is not None and position.ndim == 3:
            prefix = 0 if getattr(self.net, 'no_embed_class', False) else self.num_prefix_tokens
            track_position(self.net, 'pos_embed', tuple(self.net.patch_embed.grid_size), num_prefix_tokens=prefix)
        elif hasattr(self.net, 'rel_pos_bias') or self.last_norm == 'neck':
            timm_positions.track_tables(self.net)
        self.freeze()
        self.train(self.training)  # what timm is told of activation checkpointing, and the frozen parts' mode

    def _is_normed(self, index: int, depth: int) -> bool:
        return self.final_norm == 'all' or (self.final_norm == 'last' and index == depth - 1)

    def stage_parts(self, stage: int) -> list[nn.Module | nn.Parameter]:
        """What ``frozen_stages`` freezes: at 0 the embedding, at k the k-th block."""
        if stage > 0:
            return [self.net.blocks[stage - 1]]
        names = ['patch_embed', 'cls_token', 'dist_token', 'reg_token', 'pos_embed', 'rope', 'rel_pos_bias']
        names += ['pos_drop', 'patch_drop', 'norm_pre']
        return [part for name in names if (part := getattr(self.net, name, None)) is not None]

    def unused_parts(self) -> list[nn.Module | nn.Parameter]:
        unused = super().unused_parts()
        depth = len(self.net.blocks)
        used = any(self._is_normed(index, depth) for index in self.out_indices)
        return unused if used else [*unused, getattr(self.net, self.last_norm)]

    def train(self, mode: bool = True) -> TimmViT:
        super().train(mode)
        self.net.set_grad_checkpointing(self.with_cp and mode)
        return self

    def init_weights(self) -> None:
        """Give all parameters their first values, or load weights and log the licence of those that are published."""
        given = self.init_cfg if isinstance(self.init_cfg, list) else [self.init_cfg or {}]
        file = next((entry['checkpoint'] for entry in given if 'Pretrained' in str(entry.get('type'))), None)
        own = file == self.checkpoint and str(file).endswith('.safetensors')
        if own and CheckpointLoader._get_checkpoint_loader(file) is load_from_local:
            from safetensors.torch import load_file  # which mmengine's own loader does not read

            load_state_dict(self, load_file(str(file)), strict=False, logger='current')
            self._is_init = True
        else:
            super().init_weights()
        if file is not None:
            model = self.settings['model']
            known = ' or '.join(licences(model))
            print_log(f'{file}: weights of {model}, whose published ones have the licence {known}', 'current')

    def init_parameters(self) -> None:
        """The first values are timm's, given when the network is built; ``checkpoint='timm'`` downloads others.

        Raises:
            UserError: The weights cannot be had, for example because there is no network.
        """
        if self.checkpoint != 'timm':
            return
        name = self.settings['model']
        try:
            published = create_network(**self.settings, pretrained=True)
        except (OSError, RuntimeError) as error:  # what huggingface_hub and timm raise without a network or a file
            raise UserError(
                f"checkpoint='timm' could not get the weights of {name} ({type(error).__name__}: {error}): "
                'download them where there is a network and give the path of the file as checkpoint'
            ) from error
        self.net.load_state_dict(published.state_dict())
        print_log(f'{name}: weights by timm, licence {self.licence or "not stated"}', 'current')

    def _fit_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
        own = {name: state_dict[name] for name in state_dict if name.startswith(prefix)}
        if own and not any(name.startswith(f'{prefix}net.') for name in own):
            foreign = {name[len(prefix) :]: state_dict.pop(name) for name in own}
            if any('embeddings.patch_embeddings.' in name for name in foreign):
                foreign = from_transformers(foreign)
            module = sys.modules[type(self.net).__module__]
            options = {}
            if module.__name__.endswith('.vision_transformer'):  # DeiT III's own files
                options['adapt_layer_scale'] = any('.gamma_' in name for name in foreign)
            found = dict(module.checkpoint_filter_fn(foreign, self.net, **options))
            if self.net.norms_the_mean:
                found |= {name[len('fc_') :]: found[name] for name in found if name.startswith('fc_norm.')}
            for name, value in found.items():
                if name.partition('.')[0] not in HEADS:
                    state_dict[f'{prefix}net.{name}'] = value
        super()._fit_state_dict(state_dict, prefix)

    def _prepare(self, img: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The image, padded to whole patches, and the grid of its tokens; blocks that need the grid are told it."""
        pads = [
            cover(edge, patch) * patch - edge
            for edge, patch in zip(img.shape[-2:], self.net.patch_embed.patch_size, strict=True)
        ]
        if is_open(*img.shape[-2:]) or any(pads):  # padding by nothing would copy the images
            img = F.pad(img, (0, pads[1], 0, pads[0]))
        if hasattr(self.net, 'rel_pos_bias'):
            from mmvit_ext.models.backbones.timm_positions import tell_grid

            tell_grid(self.net, img)
        size = self.net.patch_embed.dynamic_feat_size(tuple(img.shape[-2:]))
        if self.shrink_index < len(self.net.blocks):
            from mmvit_ext.models.backbones.timm_shrunk import tell_tokens

            tell_tokens(self.net, size, img.device)
        return img, size

    def _grid(self, size: tuple[int, int], block: int) -> tuple[int, int]:
        """The grid after a block of what was ``size`` at the input."""
        return ((size[0] + 1) // 2, (size[1] + 1) // 2) if block >= self.shrink_index else size

    def collect(self, img: Tensor, names: Collection[str]) -> dict[str, Any]:
        img, size = self._prepare(img)
        indices = sorted(self.block_names.index(name) for name in names)
        mean_first = self.net.norms_the_mean and self.out_type == 'avg_featmap'
        normed = self.final_norm == 'all' and not mean_first
        options: dict[str, Any] = {'norm': normed, 'stop_early': True, 'intermediates_only': True}
        if self.last_norm == 'norm':  # SAM has maps only
            options |= {'output_fmt': 'NLC', 'return_prefix_tokens': self.out_type == 'cls_token'}
        found = {}
        for index, out in zip(indices, self.net.forward_intermediates(img, indices, **options), strict=True):
            tokens, prefix = out if isinstance(out, tuple) else (out, None)
            if tokens.ndim == 3:
                tokens = Tokens(tokens, self._grid(size, index)).to_map()
            found[self.block_names[index]] = tokens if prefix is None else (tokens, prefix)
            if mean_first and self._is_normed(index, len(self.block_names)):
                found[self.block_names[index]] = BeforeNorm(tokens, self.net.norm)
        if self.final_norm == 'last' and not mean_first and self.block_names[-1] in found:
            found[self.block_names[-1]] = self._normalise(found[self.block_names[-1]])
        return found

    def tokens_before(self, img: Tensor, block: int) -> Tokens:
        from timm.models.eva import EvaBlock
        from timm.models.vision_transformer import Block

        depth = len(self.net.blocks)
        plain = all(type(module) in (Block, EvaBlock) for module in self.net.blocks[block:])
        if not self._is_normed(depth - 1, depth) or depth - 1 not in self.out_indices:
            wanted = 'further tokens join a TimmViT that gives the normed output of its last block'
            raise ValueError(f'{wanted}, got {self.final_norm=} and {self.out_indices=}')
        if not 0 < block < depth or not plain or getattr(self.net, 'rope_mixed', False):
            model = f'{self.settings["model"]} before block {block} of {depth}'
            raise ValueError(f"further tokens join timm's standard blocks, those of DINOv2 or DINOv3, got {model}")
        img, size = self._prepare(img)
        options = {'stop_early': True, 'intermediates_only': True, 'output_fmt': 'NLC', 'return_prefix_tokens': True}
        out = self.net.forward_intermediates(img, [block - 1], norm=False, **options)[0]
        patches, prefix = out if isinstance(out, tuple | list) else (out, out[:, :0])
        return Tokens(torch.cat([prefix, patches], dim=1), self._grid(size, block - 1), prefix.shape[1])

    def run_block(self, block: int, tokens: Tokens, mask: Tensor | None = None) -> Tokens:
        keywords: dict[str, Any] = {} if mask is None else {'attn_mask': mask}
        if (rope := getattr(self.net, 'rope', None)) is not None:
            angles = rope.get_embed(shape=tokens.size)
            # Tokens between the network's own and the patches have no place: an angle of 0, sine and cosine of it.
            placeless = angles.new_zeros(tokens.num_prefix_tokens - self.num_prefix_tokens, angles.shape[-1])
            placeless[:, angles.shape[-1] // 2 :] = 1
            keywords['rope'] = torch.cat([placeless, angles])
        x = checkpointed(self.net.blocks[block], tokens.x, with_cp=self.with_cp, **keywords)
        return tokens._replace(x=x)

    def normalise(self, tokens: Tokens) -> Tokens:
        return tokens._replace(x=getattr(self.net, self.last_norm)(tokens.x))

    def _normalise(self, found: Any) -> Any:
        """The last norm on a map ``(B, C, h, w)``, or on a map and its prefix tokens."""
        norm = getattr(self.net, self.last_norm)
        if isinstance(found, tuple):
            return self._normalise(found[0]), norm(found[1])
        return norm(found) if self.last_norm == 'neck' else norm(found.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def to_map(self, found: Any) -> Tensor:
        return found[0] if isinstance(found, tuple) else found

    def to_averaged_map(self, found: Any) -> Tensor:
        if not isinstance(found, BeforeNorm):
            return super().to_averaged_map(found)
        x = normalised_by_mean(found.norm, found.map.flatten(2).transpose(1, 2))
        return x.transpose(1, 2).unflatten(2, found.map.shape[2:])

    def to_output(self, found: Any) -> Tensor:
        if isinstance(found, BeforeNorm):
            return found.norm(found.map.mean((2, 3)))
        return found[1][:, 0] if self.out_type == 'cls_token' else super().to_output(found)
