"""How often the host waits for the device in an iteration of a training, counted on a CPU by what makes it wait."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.dataset import default_collate
from mmengine.hooks import LoggerHook, RuntimeInfoHook
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import ImgDataPreprocessor
from mmengine.runner import Runner
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import Dataset

pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')

from mmengine.structures import PixelData
from mmengine.utils import digit_version
from mmpretrain.registry import MODELS as CLASSIFIERS
from mmpretrain.structures import DataSample
from mmseg.registry import MODELS as SEGMENTORS
from mmseg.structures import SegDataSample

from mmvit_ext.datasets.collate import PinnableSamples, collate_labels
from mmvit_ext.engine.hooks.checkpoint import AtomicCheckpointHook
from mmvit_ext.engine.hooks.compiled_blocks import CompiledBlocksHook
from mmvit_ext.engine.hooks.deferred_info import DeferredInfoHook, HostCopy, prepare_copies
from mmvit_ext.engine.hooks.exact_resume import ExactResumeHook
from mmvit_ext.engine.hooks.nonfinite import NonFiniteError, NonFiniteHook
from mmvit_ext.engine.hooks.preemption import PreemptionHook
from mmvit_ext.engine.hooks.reports import LabelRangeHook
from mmvit_ext.errors import UserError
from tests.zoo import BACKBONES

SIZE, CLASSES, INTERVAL = (32, 48), 5, 3
ASKING = ('_local_scalar_dense', 'nonzero', 'masked_select', '_unique2', 'unique_dim', 'unique_consecutive')
"""Operations whose result the host needs before it can go on."""


class _Operations(TorchDispatchMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name in ('index', 'index_put', 'index_put_') else []
        if name in ASKING or any(index is not None and index.dtype == torch.bool for index in indices):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


class _Copies(TorchFunctionMode):
    """What copies values to the host without any operation on a CPU."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, '__name__', '')
        if name in ('tolist', 'numpy', 'cpu', '__array__'):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def counted(found: list[str]) -> Iterator[None]:
    with _Copies(found), _Operations(found):
        yield


class Samples(Dataset):
    """Random images with labels of the task."""

    def __init__(self, task: str) -> None:
        self.task = task
        self.metainfo = {'classes': tuple('abcde')}

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, *SIZE), generator=generator, dtype=torch.uint8)
        if self.task == 'cls':
            return {'inputs': image, 'data_samples': DataSample().set_gt_label(index % CLASSES)}
        label = torch.randint(0, CLASSES, (1, *SIZE), generator=generator)
        label[:, :5] = 255
        meta = {'img_path': f'{index}.png', 'img_shape': SIZE, 'ori_shape': SIZE}
        return {'inputs': image, 'data_samples': SegDataSample(gt_sem_seg=PixelData(data=label), metainfo=meta)}


# Others keep a counter for each parameter on the host, and PyTorch 2.1 fuses on a GPU only.
FUSES = digit_version(torch.__version__) >= digit_version('2.4.0')
OPTIMIZER = {'lr': 1e-3, 'weight_decay': 0.01, **({'type': 'AdamW', 'fused': True} if FUSES else {'type': 'SGD'})}
NORMAL = {'mean': [127.5] * 3, 'std': [127.5] * 3}


def segmentor(backbone: str, neck: Any, head: dict[str, Any]) -> Any:
    row = BACKBONES[backbone]
    config = {
        'type': 'mmseg.EncoderDecoder',
        'data_preprocessor': {'type': 'mmseg.SegDataPreProcessor', **NORMAL, 'bgr_to_rgb': True, 'size': SIZE},
        'backbone': {'type': f'mmvit_ext.{backbone}', **row.tiny},
        'neck': neck,
        'decode_head': {'num_classes': CLASSES, **head},
        'train_cfg': {},
        'test_cfg': {'mode': 'whole'},
    }
    return SEGMENTORS.build({name: value for name, value in config.items() if value is not None})


def segvit() -> Any:
    head = {'type': 'mmvit_ext.ATMHead', 'in_channels': [24, 24], 'channels': 12, 'in_index': [0, 1]}
    return segmentor('ViT', None, {**head, 'num_heads': 3, 'num_layers': 2})


def semantic_fpn() -> Any:
    neck = {'type': 'mmseg.FPN', 'in_channels': [8, 12, 20, 24], 'out_channels': 8, 'num_outs': 4}
    head = {'type': 'mmvit_ext.FPNHead', 'in_channels': [8] * 4, 'in_index': [0, 1, 2, 3], 'channels': 8}
    loss = {'type': 'mmseg.CrossEntropyLoss'}
    return segmentor('P2T', neck, {**head, 'feature_strides': [4, 8, 16, 32], 'loss_decode': loss})


def classifier() -> Any:
    return CLASSIFIERS.build(
        {
            'type': 'mmpretrain.ImageClassifier',
            'data_preprocessor': {
                'type': 'mmpretrain.ClsDataPreprocessor',
                **NORMAL,
                'to_rgb': True,
                'num_classes': CLASSES,
            },
            'backbone': {'type': 'mmvit_ext.NesT', **BACKBONES['NesT'].tiny, 'out_indices': (2,)},
            'neck': {'type': 'mmpretrain.GlobalAveragePooling'},
            'head': {
                'type': 'mmpretrain.LinearClsHead',
                'num_classes': CLASSES,
                'in_channels': 20,
                'loss': {'type': 'mmpretrain.CrossEntropyLoss'},
            },
        }
    )


MODELS: dict[str, tuple[str, Callable[[], Any]]] = {
    'SegViT': ('seg', segvit),
    'Semantic FPN': ('seg', semantic_fpn),
    'classifier': ('cls', classifier),
}


def build(tmp_path: Path, task: str, model: Any, *, iterations: int = 7, info: Any = None, **train: Any) -> Runner:
    for kind in (MessageHub, MMLogger):
        kind._instance_dict.clear()
    torch.manual_seed(0)
    ours: list[Any] = [NonFiniteHook(), ExactResumeHook(), PreemptionHook(), CompiledBlocksHook('off')]
    return Runner(
        model,
        work_dir=str(tmp_path),
        train_dataloader={
            'batch_size': 2,
            'num_workers': 0,
            'dataset': Samples(task),
            'sampler': {'type': 'DefaultSampler', 'shuffle': False},
            'collate_fn': collate_labels if task == 'seg' else default_collate,
        },
        train_cfg={'by_epoch': False, 'max_iters': iterations},
        optim_wrapper={
            'constructor': 'mmvit_ext.MergedGroupsConstructor',
            'optimizer': OPTIMIZER,
            'paramwise_cfg': {'custom_keys': {'norm': {'decay_mult': 0.0}}},
            'clip_grad': {'max_norm': 1.0},
        },
        param_scheduler={'type': 'LinearLR', 'start_factor': 0.1, 'by_epoch': False, 'begin': 0, 'end': 5},
        default_hooks={
            'runtime_info': info or DeferredInfoHook(),
            'logger': LoggerHook(interval=INTERVAL, log_metric_by_epoch=False),
            'checkpoint': AtomicCheckpointHook(by_epoch=False, interval=iterations),
        },
        custom_hooks=[*ours, LabelRangeHook()] if task == 'seg' else ours,
        log_processor={'by_epoch': False},
        experiment_name=tmp_path.name,
        randomness={'seed': 0},
        **train,
    )


@pytest.mark.parametrize('name', MODELS)
def test_the_host_waits_twice_at_most_between_two_lines_of_the_log(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, make = MODELS[name]
    runner = build(tmp_path, task, make())
    waits: list[list[str]] = []
    loop = runner.train_loop
    step = loop.run_iter

    def run_iter(*args: Any) -> None:
        waits.append([])
        with counted(waits[-1]):
            step(*args)

    monkeypatch.setattr(loop, 'run_iter', run_iter)
    runner.train()
    assert len(waits) == 7
    between = [found for number, found in enumerate(waits, 1) if number % INTERVAL and number < len(waits)]
    assert max(map(len, between)) <= 2, between
    assert all('tolist' in found for found in between[1:]), 'the verdict on the iteration before'
    assert any(len(found) > 1 for found in waits[INTERVAL - 1 :: INTERVAL]), 'the values of a line are read at it'


def test_what_waits_is_seen() -> None:
    x = torch.arange(3.0)
    for asks in (
        lambda: x.sum().item(),
        lambda: bool(x.any()),
        lambda: float(x[0]),
        x.nonzero,
        lambda: x[x > 1],
        x.unique,
        x.cpu,
        x.tolist,
        x.numpy,
    ):
        found: list[str] = []
        with counted(found):
            asks()
        assert found
    found = []
    with counted(found):
        torch.where(x > 1, x, 0).sum()
        x[torch.tensor([0, 2])]
    assert not found


def scalars(runner: Runner) -> dict[str, list[float]]:
    history = runner.message_hub.log_scalars
    return {name: buffer.data[0].tolist() for name, buffer in history.items() if 'time' not in name}


def test_the_log_has_the_values_of_every_iteration_as_without_the_hook(tmp_path: Path) -> None:
    runs = {}
    for name, info in {'ours': DeferredInfoHook(), 'theirs': RuntimeInfoHook()}.items():
        torch.manual_seed(0)
        runner = build(tmp_path / name, 'seg', segvit(), iterations=4, info=info)
        runner.train()
        saved = torch.load(tmp_path / name / 'iter_4.pth', weights_only=False)['message_hub']['log_scalars']
        numbers = {key: buffer.data[0].tolist() for key, buffer in saved.items() if 'time' not in key}
        assert numbers == scalars(runner), 'a checkpoint has them all, also between two lines'
        assert len(numbers['train/loss']) == len(numbers['train/grad_norm']) == 4
        runs[name] = (numbers, {key: x.clone() for key, x in runner.model.state_dict().items()})
    assert runs['ours'][0] == runs['theirs'][0]
    assert all(torch.equal(x, runs['theirs'][1][key]) for key, x in runs['ours'][1].items()), 'channels turned alike'


def test_a_verdict_is_read_an_iteration_later_but_before_anything_is_saved(tmp_path: Path) -> None:
    class Break:
        """A tensor hook that makes one gradient NaN in the third iteration."""

        calls = 0

        def __call__(self, gradient: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return gradient * float('nan') if self.calls == 3 else gradient

    for interval, seen in ((10, 4), (3, 3)):
        model, broken = segvit(), Break()
        model.decode_head.class_embed.weight.register_hook(broken)
        folder = tmp_path / str(interval)
        runner = build(folder, 'seg', model)
        next(hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook)).interval = interval
        with pytest.raises(NonFiniteError, match='iteration 3 has gradients'):
            runner.train()
        assert broken.calls == seen
        assert not list(folder.glob('*.pth'))


def test_classes_are_found_in_the_labels_while_they_are_collated() -> None:
    samples = [Samples('seg')[index] for index in range(2)]
    samples[1]['data_samples'].gt_sem_seg.data[:] = 255
    batch = collate_labels(samples)
    assert [sample.classes_present for sample in batch['data_samples']] == [list(range(CLASSES)), []]
    assert isinstance(batch['data_samples'], PinnableSamples)
    views = collate_labels([{'inputs': [1, 2], 'data_samples': ['a', 'b']}])
    assert [list(view) for view in views['data_samples']] == [['a'], ['b']]


def test_labels_outside_the_classes_are_named_by_what_the_workers_have_found(tmp_path: Path) -> None:
    runner = build(tmp_path, 'seg', segvit())
    dataset = runner.train_dataloader.dataset
    dataset.metainfo = {'classes': ('a', 'b')}
    batch = collate_labels([dataset[0]])
    with pytest.raises(UserError, match=r'0\.png has values outside the 2 classes: 2 '):
        LabelRangeHook().before_train_iter(runner, 0, batch)
    found: list[str] = []
    dataset.metainfo = {'classes': tuple('abcde')}
    with counted(found):
        LabelRangeHook().before_train_iter(runner, 0, batch)
    assert not found
    del batch['data_samples'][0].classes_present
    with counted(found):
        LabelRangeHook().before_train_iter(runner, 0, batch)
    assert found, 'all pixels are looked at where no worker has'


def test_channels_are_turned_as_the_library_does() -> None:
    values = {'mean': [0.0, 1.0, 2.0], 'std': [2.0] * 3}
    images = [torch.randn(3, 4, 5) for _ in range(2)]
    theirs, ours = (ImgDataPreprocessor(**values, bgr_to_rgb=True) for _ in range(2))
    prepare_copies(ours)
    for inputs in (images, torch.stack(images)):
        assert torch.equal(ours({'inputs': inputs})['inputs'], theirs({'inputs': inputs})['inputs'])
    assert not ours._non_blocking
    ours._device = torch.device('cuda')
    prepare_copies(ours)
    assert ours._non_blocking


def test_a_copy_is_read_when_it_is_asked_for() -> None:
    assert HostCopy(torch.tensor([1.0, 0.0])).read() == [1.0, 0.0]
