"""Training of a generator against a discriminator.

Hinge loss (arXiv 1705.02894), the gradient penalty R1 on real images (arXiv 1801.04406) every few steps (arXiv
1912.04958), and a running mean of the generator's weights, which is what images are made with.

Shapes: B batch, Z noise, S edge of an image in pixels.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel, ExponentialMovingAverage, is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmvit_ext.registry import MODELS

__all__ = ['AdversarialModel', 'noise_of', 'r1_penalty', 'to_pixels']

HALF = 127.5  # (x + 1) times this brings values from -1 to 1 to pixels


def noise_of(seed: int, indices: Sequence[int], dims: int) -> Tensor:
    """Standard normal noise ``(len(indices), dims)`` on the CPU, of the seed and the number of each image alone."""
    rows = [np.random.default_rng((seed, index)).standard_normal(dims, dtype=np.float32) for index in indices]
    return torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, dims)


def to_pixels(images: Tensor) -> Tensor:
    """Images with values from -1 to 1 as ``uint8``."""
    return ((images.float() + 1) * HALF).round().clamp(0, 255).to(torch.uint8)


def r1_penalty(scores: Tensor, images: Tensor) -> Tensor:
    """Mean over the images of their scores' squared gradients (arXiv 1801.04406, equation 9, without γ / 2)."""
    (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()


class GeneratorAverage(ExponentialMovingAverage):
    """Running mean of weights and of the statistics of norms, on whatever device the model has been moved to."""

    def __init__(self, model: nn.Module, momentum: float) -> None:
        super().__init__(model, momentum=momentum, update_buffers=True)

    def update_parameters(self, model: nn.Module) -> None:
        """Take a step towards the weights of ``model``."""
        # With buffers, mmengine keeps tensors that no longer are the model's once that has been moved.
        self.avg_parameters = self.module.state_dict()
        super().update_parameters(model)


@MODELS.register_module()
class AdversarialModel(BaseModel):
    """A generator and a discriminator that learn against each other, each with its own optimizer.

    One training step updates the discriminator and then the generator. The config's ``optim_wrapper`` has the entries
    ``generator`` and ``discriminator`` and ``constructor='mmvit_ext.MultiOptimWrapperConstructor'``.

    Args:
        generator: Config of the generator from noise (``noise_dims``) to images (``img_size``) between -1 and 1.
        discriminator: Config of the discriminator, which gives each image a score.
        r1_weight: γ of the gradient penalty; 0 for none.
        r1_interval: Iterations from one penalty to the next, which then counts as many times; at least 1.
        average_momentum: Step of the running mean of the generator's weights in each iteration, between 0 and 1.
        fakes_per_image: Generated images for each real one of an evaluation, at least 1.
        seed: Of the noise of evaluations.
        data_preprocessor: Brings real images to -1 to 1, RGB; mmengine's ``ImgDataPreprocessor`` on BGR by default.
        init_cfg: Initialisation, mmengine style.
    """

    def __init__(
        self,
        generator: Mapping[str, Any],
        discriminator: Mapping[str, Any],
        *,
        r1_weight: float = 10.0,
        r1_interval: int = 1,
        average_momentum: float = 0.001,
        fakes_per_image: int = 1,
        seed: int = 0,
        data_preprocessor: Mapping[str, Any] | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        if r1_weight < 0 or r1_interval < 1:
            raise ValueError(f'r1_weight must not be negative and r1_interval at least 1: {r1_weight}, {r1_interval}')
        if fakes_per_image < 1 or seed < 0:
            raise ValueError(f'fakes_per_image must be at least 1 and seed 0 or more, got {fakes_per_image}, {seed}')
        if not 0 < average_momentum < 1:
            raise ValueError(f'average_momentum must be above 0 and below 1, got {average_momentum}')
        scaling = {'type': 'mmengine.ImgDataPreprocessor', 'mean': [HALF] * 3, 'std': [HALF] * 3, 'bgr_to_rgb': True}
        super().__init__(dict(data_preprocessor or scaling), init_cfg)
        self.generator = MODELS.build(dict(generator))
        self.discriminator = MODELS.build(dict(discriminator))
        self.average = GeneratorAverage(self.generator, average_momentum).eval()
        self.r1_weight, self.r1_interval = r1_weight, r1_interval
        self.fakes_per_image, self.seed = fakes_per_image, seed
        self._register_state_dict_hook(_without_wrappers)
        self._register_load_state_dict_pre_hook(_without_wrappers, with_module=True)

    @property
    def noise_dims(self) -> int:
        """Numbers of a noise vector."""
        return self.average.module.noise_dims

    def init_weights(self) -> None:
        """Initialise both networks; the mean begins with the generator's weights."""
        super().init_weights()
        begun = _bare(self.generator).state_dict().values()
        # Not load_state_dict: a run reports every loading, and this is none of a file.
        for mean, value in zip(self.average.module.state_dict().values(), begun, strict=True):
            mean.copy_(value)

    def train(self, mode: bool = True) -> 'AdversarialModel':
        """Set the mode; the mean is for evaluation only."""
        super().train(mode)
        self.average.eval()
        return self

    def train_step(
        self, data: dict | tuple | list, optim_wrapper: OptimWrapperDict | Mapping[str, OptimWrapper]
    ) -> dict[str, Tensor]:
        """Update the discriminator, the generator and its mean with a batch of real ``inputs``; give losses by name."""
        real = self.data_preprocessor(data, True)['inputs']
        penalised = self.r1_weight > 0 and int(self.average.steps) % self.r1_interval == 0
        losses = self._train_discriminator(real, optim_wrapper['discriminator'], penalised)
        losses |= self._train_generator(real, optim_wrapper['generator'])
        self.average.update_parameters(_bare(self.generator))
        return self.parse_losses(losses)[1]

    def _noise(self, real: Tensor) -> Tensor:
        return torch.randn(len(real), self.noise_dims, device=real.device)

    def _train_discriminator(self, real: Tensor, optim_wrapper: OptimWrapper, penalised: bool) -> dict[str, Tensor]:
        real = real.detach().requires_grad_(penalised)
        with optim_wrapper.optim_context(self.discriminator):
            with torch.no_grad():
                fake = self.generator(self._noise(real))
            # One pass over both: distributed training allows one before each backward pass.
            score_real, score_fake = self.discriminator(torch.cat([real, fake])).chunk(2)
            losses = {'loss_discriminator': F.relu(1 - score_real).mean() + F.relu(1 + score_fake).mean()}
            if penalised:
                losses['loss_r1'] = r1_penalty(score_real, real) * (self.r1_weight / 2 * self.r1_interval)
        optim_wrapper.update_params(sum(losses.values(), start=real.new_zeros(())))
        scores = {'score_real': score_real.detach().mean(), 'score_fake': score_fake.detach().mean()}
        return {name: loss.detach() for name, loss in losses.items()} | scores

    def _train_generator(self, real: Tensor, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        discriminator = _bare(self.discriminator)
        trained = [parameter for parameter in discriminator.parameters() if parameter.requires_grad]
        discriminator.requires_grad_(False)  # its weights need no gradient here
        try:
            with optim_wrapper.optim_context(self.generator):
                loss = -discriminator(self.generator(self._noise(real))).mean()
            optim_wrapper.update_params(loss)
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)
        return {'loss_generator': loss.detach()}

    def sample(self, noise: Tensor) -> Tensor:
        """Images of noise ``(B, Z)`` by the mean of the generator's weights: ``(B, 3, S, S)``, RGB, ``uint8``."""
        device = next(self.average.module.parameters()).device
        with torch.no_grad():
            return to_pixels(self.average.module(noise.to(device)))

    def forward(
        self, inputs: Tensor, data_samples: Sequence[BaseDataElement] | None = None, mode: str = 'tensor'
    ) -> Tensor | list[BaseDataElement]:
        """Images, from noise ``(B, Z)`` with values from -1 to 1, or ``'predict'`` beside real ones of an evaluation.

        Of each real image, whose ``sample_idx`` chooses the noise, these are ``real_img`` ``(3, S, S)`` and
        ``fake_imgs`` ``(fakes_per_image, 3, S, S)``, RGB, ``uint8``.
        """
        if mode == 'tensor':
            return self.average.module(inputs)
        if mode != 'predict':
            raise ValueError(f"mode must be 'tensor' or 'predict', got {mode!r}: train_step computes the losses")
        known = [{}] * len(inputs) if data_samples is None else [sample.metainfo for sample in data_samples]
        count, numbers = self.fakes_per_image, [meta.get('sample_idx', place) for place, meta in enumerate(known)]
        numbers = [number * count + fake for number in numbers for fake in range(count)]
        fakes = self.sample(noise_of(self.seed, numbers, self.noise_dims)).unflatten(0, (-1, count))
        pairs = zip(to_pixels(inputs), fakes, strict=True)
        return [BaseDataElement(real_img=real, fake_imgs=fake) for real, fake in pairs]


def _bare(model: nn.Module) -> nn.Module:
    return cast('nn.Module', model.module) if is_model_wrapper(model) else model


def _without_wrappers(module: nn.Module, state_dict: Any, prefix: str, *_: Any) -> None:
    """Name the weights as on one process; with several, generator and discriminator are each wrapped in a module."""
    wrapped = re.compile(rf'^({re.escape(prefix)}(?:generator|discriminator))\.module(?=\.|$)')
    for names in (state_dict, getattr(state_dict, '_metadata', None) or {}):
        renamed = {wrapped.sub(r'\1', name): value for name, value in names.items()}
        names.clear()
        names.update(renamed)
