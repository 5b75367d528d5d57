"""Checkpoints under SIGKILL, a full disk and mmengine's order of deleting and writing."""

import os
import random
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.fileio import get_file_backend
from mmengine.hooks import CheckpointHook
from mmengine.logging import MessageHub
from mmengine.model import MMSeparateDistributedDataParallel
from torch.nn.parallel import DistributedDataParallel

from mmvit_ext.checkpoints.newest import checkpoint_damage, newest_checkpoint
from mmvit_ext.checkpoints.report import load_weights
from mmvit_ext.engine.hooks.checkpoint import (
    ATOMIC_BACKEND,
    PREEMPTED_NAME,
    AtomicCheckpointHook,
    AtomicLocalBackend,
)
from mmvit_ext.files import digest_of
from mmvit_ext.models.generators.adversarial import AdversarialModel
from tests.engine import toy_run


class FakeRunner(SimpleNamespace):
    """What the hook needs of a runner; saving is mmengine's own."""

    def call_hook(self, name: str, **_: Any) -> None:
        self.calls.append(name)

    def save_checkpoint(
        self, out_dir: str, name: str | None = None, *_: Any, filename: str = '', **options: Any
    ) -> None:
        from mmengine.runner import save_checkpoint

        meta = options['meta']
        content = {'meta': {'epoch': 0, **meta}, 'state_dict': {'weight': self.weight}, 'message_hub': {}}
        if options['save_optimizer']:
            content['optimizer'] = {}
        path = os.path.join(out_dir, name or filename)
        save_checkpoint(content, path, backend_args=options['backend_args'])
        if self.after_save is not None:
            self.after_save(Path(path))


def make_runner(folder: Path, size: int = 1000) -> FakeRunner:
    logger = SimpleNamespace(info=lambda *_: None, warning=lambda *_: None)
    hub = MessageHub.get_instance(f'atomic_{folder}_{time.monotonic_ns()}')
    return FakeRunner(
        work_dir=str(folder),
        logger=logger,
        message_hub=hub,
        epoch=0,
        iter=0,
        weight=torch.zeros(size),
        after_save=None,
        calls=[],
    )


def make_hook(runner: FakeRunner, **options: Any) -> CheckpointHook:
    hook = AtomicCheckpointHook(by_epoch=False, interval=1, **{'max_keep_ckpts': 1, **options})
    hook.before_train(runner)
    return hook


def save(hook: CheckpointHook, runner: FakeRunner, iteration: int) -> None:
    """What happens after an iteration that is a multiple of the interval."""
    runner.iter = iteration - 1
    hook._save_checkpoint(runner)
    runner.iter = iteration


def save_on_and_on(folder: Path, size: int) -> None:
    """Saves one checkpoint after the other, better and better ones; the content is that of the iteration."""
    runner = make_runner(folder, size)
    hook = make_hook(runner, save_best='acc')
    done = newest_checkpoint(folder).iteration or 0
    for iteration in range(done + 1, 100000):
        runner.weight.fill_(iteration)
        save(hook, runner, iteration)
        hook.after_val_epoch(runner, {'acc': float(iteration)})


def kill_while_saving(tmp_path: Path, kills: int) -> None:
    """Kills the process above at random moments and looks after each kill."""
    folder = tmp_path / 'runs'
    folder.mkdir()
    generator = random.Random(5)
    before = 0
    progressed = 0
    for _ in range(kills):
        process = toy_run.start(folder, save_on_and_on, size=500_000)
        deadline = time.monotonic() + toy_run.LIMIT
        while time.monotonic() < deadline:
            if toy_run.saved(folder) > before and list(folder.glob('best_acc_*.pth')):
                break
            assert process.is_alive(), (tmp_path / 'output.txt').read_text()[-2000:]
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.1))
        process.kill()
        process.join()
        newest = newest_checkpoint(folder)
        assert newest.path is not None
        assert newest.passed_over == ()
        content = torch.load(newest.path, weights_only=True)
        assert content['state_dict']['weight'].eq(newest.iteration).all()
        # Everything that has its final name is whole, and mmengine's own resume finds a file behind its note.
        files = sorted(folder.glob('*.pth'))
        assert [checkpoint_damage(path) for path in files if not path.name.startswith('.')] == [None] * len(files)
        assert Path((folder / 'last_checkpoint').read_text()).is_file()
        assert list(folder.glob('best_acc_*.pth'))
        progressed += newest.iteration > before
        before = newest.iteration
    assert progressed == kills


def test_a_kill_while_saving_leaves_a_loadable_checkpoint(tmp_path: Path) -> None:
    kill_while_saving(tmp_path, 4)


@pytest.mark.slow
def test_forty_kills_while_saving_leave_a_loadable_checkpoint_each(tmp_path: Path) -> None:
    kill_while_saving(tmp_path, 40)


def test_the_content_is_on_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fsync, replace = os.fsync, os.replace
    folders = []

    def synced(descriptor: int) -> None:
        calls.append('fsync')
        folders.append(os.path.isdir(f'/proc/self/fd/{descriptor}'))
        fsync(descriptor)

    monkeypatch.setattr(os, 'fsync', synced)
    monkeypatch.setattr(os, 'replace', lambda *paths: (calls.append('replace'), replace(*paths)))
    AtomicLocalBackend().put(b'content', tmp_path / 'new' / 'file')
    assert calls == ['fsync', 'replace', 'fsync']
    assert folders == [False, True]
    assert (tmp_path / 'new' / 'file').read_bytes() == b'content'


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'file'
    AtomicLocalBackend().put(b'old', path)

    def no_space(_: int) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', no_space)
    with pytest.raises(OSError, match='No space'):
        AtomicLocalBackend().put(b'new', path)
    assert path.read_bytes() == b'old'
    assert [entry.name for entry in tmp_path.iterdir()] == ['file']


def test_the_old_checkpoint_goes_after_the_new_one_stands(tmp_path: Path) -> None:
    runner = make_runner(tmp_path)
    hook = make_hook(runner)
    present = []
    runner.after_save = lambda _: present.append(sorted(path.name for path in tmp_path.glob('*.pth')))
    for iteration in (1, 2, 3):
        save(hook, runner, iteration)
    assert present == [['iter_1.pth'], ['iter_1.pth', 'iter_2.pth'], ['iter_2.pth', 'iter_3.pth']]
    assert [path.name for path in tmp_path.glob('*.pth')] == ['iter_3.pth']
    assert runner.message_hub.get_info('keep_ckpt_ids') == [3]
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_3.pth')
    assert runner.calls == ['before_collective_save'] * 3


def test_a_failed_save_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    runner = make_runner(tmp_path)
    hook = make_hook(runner)
    save(hook, runner, 1)
    runner.weight = lambda: None  # cannot be pickled
    with pytest.raises(Exception, match=r'pickle|local object'):
        save(hook, runner, 2)
    assert newest_checkpoint(tmp_path).path == str(tmp_path / 'iter_1.pth')


@pytest.mark.parametrize('metric', ['acc', 'auto'])
def test_the_old_best_checkpoint_goes_last(tmp_path: Path, metric: str) -> None:
    runner = make_runner(tmp_path)
    hook = make_hook(runner, save_best=metric)
    save(hook, runner, 1)
    hook.after_val_epoch(runner, {'acc': 0.5})
    present = []
    runner.after_save = lambda path: present.append((path.name, (tmp_path / 'best_acc_iter_1.pth').is_file()))
    save(hook, runner, 2)
    hook.after_val_epoch(runner, {'acc': 0.6})
    assert present == [('iter_2.pth', True), ('best_acc_iter_2.pth', True), ('iter_2.pth', True)]
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == ['best_acc_iter_2.pth', 'iter_2.pth']


def test_the_old_best_checkpoint_of_each_of_two_metrics_goes_last(tmp_path: Path) -> None:
    runner = make_runner(tmp_path)
    hook = make_hook(runner, save_best=['acc', 'iou'], rule='greater')
    present = []
    for iteration, metrics in enumerate([{'acc': 0.5, 'iou': 0.5}, {'acc': 0.4, 'iou': 0.6}], 1):
        runner.after_save = lambda path: present.append((path.name, (tmp_path / 'best_iou_iter_1.pth').is_file()))
        save(hook, runner, iteration)
        hook.after_val_epoch(runner, metrics)
    assert ('best_iou_iter_2.pth', True) in present
    best = {path.name for path in tmp_path.glob('best_*.pth')}
    assert best == {'best_acc_iter_1.pth', 'best_iou_iter_2.pth'}
    stored = [os.path.basename(runner.message_hub.get_info(f'best_ckpt_{name}')) for name in ('acc', 'iou')]
    assert stored == ['best_acc_iter_1.pth', 'best_iou_iter_2.pth']


def test_a_best_checkpoint_written_again_under_its_name_stays(tmp_path: Path) -> None:
    runner = make_runner(tmp_path)
    hook = make_hook(runner, save_best='acc')
    save(hook, runner, 1)
    for score in (0.5, 0.6):
        hook.after_val_epoch(runner, {'acc': score})
    assert (tmp_path / 'best_acc_iter_1.pth').is_file()


def test_stored_paths_of_other_folders_are_never_removed(tmp_path: Path) -> None:
    """A copied run, a hostile value and a link: only a file of our naming in this run's own folder may go."""
    original, copy, treasure = tmp_path / 'original', tmp_path / 'copy', tmp_path / 'treasure'
    for folder in (original, copy, treasure):
        folder.mkdir()
        (folder / 'best_acc_iter_1.pth').write_text('weights')
    (copy / 'best_linked.pth').symlink_to(treasure / 'best_acc_iter_1.pth')
    (copy / 'notes.txt').write_text('mine')
    stored = {
        str(original / 'best_acc_iter_1.pth'): {'best_acc_iter_1.pth'},
        str(treasure): set(),
        str(copy / 'best_linked.pth'): set(),
        str(copy / 'notes.txt'): set(),
        '../original/best_acc_iter_1.pth': {'best_acc_iter_1.pth'},
    }
    for path, gone in stored.items():
        (copy / 'best_acc_iter_1.pth').write_text('weights')
        before = {entry.name for entry in copy.iterdir()}
        runner = make_runner(copy)
        runner.message_hub.update_info('best_ckpt', path)
        runner.message_hub.update_info('best_score', 0.1)
        runner.message_hub.update_info('keep_ckpt_ids', ['../../original/best_acc_iter_1', 1, '/', None])
        hook = make_hook(runner, save_best='acc', max_keep_ckpts=1)
        save(hook, runner, 2)
        hook.after_val_epoch(runner, {'acc': 0.5})
        assert before - {entry.name for entry in copy.iterdir()} == gone, path
        assert (original / 'best_acc_iter_1.pth').is_file()
        assert (treasure / 'best_acc_iter_1.pth').is_file()
        assert (copy / 'notes.txt').is_file()
        for entry in copy.glob('*_iter_2.pth'):
            entry.unlink()


def test_a_file_of_another_run_is_never_removed_by_its_name(tmp_path: Path) -> None:
    """A run that resumes somebody's checkpoint in a folder with checkpoints of its own kind."""
    for name in ('iter_1.pth', 'iter_2.pth', 'best_acc_iter_1.pth', PREEMPTED_NAME):
        torch.save({'meta': {'run_id': 'theirs'}, 'state_dict': {}}, tmp_path / name)
    runner = make_runner(tmp_path)
    runner.message_hub.update_info('keep_ckpt_ids', [1, 2])
    runner.message_hub.update_info('best_ckpt', str(tmp_path / 'best_acc_iter_1.pth'))
    runner.message_hub.update_info('best_score', 0.1)
    hook = make_hook(runner, save_best='acc')
    for iteration in (3, 4):
        save(hook, runner, iteration)
        hook.after_val_epoch(runner, {'acc': iteration / 10})
    names = {path.name for path in tmp_path.glob('*.pth')}
    assert names == {
        *('iter_1.pth', 'iter_2.pth', 'best_acc_iter_1.pth', PREEMPTED_NAME),
        *('iter_4.pth', 'best_acc_iter_4.pth'),
    }


def test_a_resumed_run_keeps_its_id_and_another_has_another(tmp_path: Path) -> None:
    runner = make_runner(tmp_path)
    hook, other = make_hook(runner), AtomicCheckpointHook(by_epoch=False, interval=1)
    content: dict[str, Any] = {'meta': {}}
    hook.before_save_checkpoint(runner, content)
    assert content['meta']['run_id'] == (tmp_path / 'run_id').read_text() != other.run_id
    runner._resume, runner._train_loop = True, {}
    other.after_load_checkpoint(runner, content)
    assert other.run_id == hook.run_id
    other.after_load_checkpoint(runner, {'meta': {}})  # of a version without ids
    assert other.run_id == hook.run_id


def test_what_a_kill_left_behind_is_cleared_at_the_next_start(tmp_path: Path) -> None:
    runner = make_runner(tmp_path)
    (tmp_path / '.iter_1.pth.partial').write_bytes(b'cut off')
    for iteration in (1, 2):
        (tmp_path / f'iter_{iteration}.pth').write_bytes(b'')
    # killed between the rename of the second and the removal of the first: the second one still lists both
    runner.message_hub.update_info('keep_ckpt_ids', [1, 2])
    make_hook(runner)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['iter_2.pth', 'run_id']


@pytest.mark.parametrize('left_out', [None, 'save_optimizer', 'save_param_scheduler'])
def test_a_checkpoint_that_can_be_resumed_replaces_the_one_of_a_preemption(
    tmp_path: Path, left_out: str | None
) -> None:
    runner = make_runner(tmp_path)
    hook = make_hook(runner, **({left_out: False} if left_out else {}))
    (tmp_path / PREEMPTED_NAME).write_bytes(b'')
    save(hook, runner, 1)
    assert (tmp_path / PREEMPTED_NAME).exists() == (left_out is not None)
    assert hook.saved_iteration == (None if left_out else 1)


def test_a_published_checkpoint_is_named_by_the_hash_of_its_file(tmp_path: Path) -> None:
    runner = make_runner(tmp_path)
    hook = make_hook(runner, published_keys=['meta', 'state_dict'])
    save(hook, runner, 1)
    hook.after_train(runner)
    (published,) = tmp_path.glob('iter_1-*.pth')
    assert digest_of(published).startswith(published.stem.removeprefix('iter_1-'))
    assert set(torch.load(published, weights_only=True)) == {'meta', 'state_dict'}


def test_a_generator_of_several_processes_is_saved_with_the_names_of_one(tmp_path: Path) -> None:
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/meeting', rank=0, world_size=1)
    try:
        model = adversarial_model()
        names = [*model.state_dict()]
        wrapper = MMSeparateDistributedDataParallel(model)
        assert isinstance(model.generator, DistributedDataParallel)
        state = wrapper.module.state_dict()
        assert [*state] == names
        assert {*state._metadata} == {*adversarial_model().state_dict()._metadata}
        earlier = {re.sub(r'^(generator|discriminator)', r'\1.module', name): value for name, value in state.items()}
        for other in (adversarial_model(), model):
            for given in (state, earlier):
                assert load_weights(other, given).exact
        again = adversarial_model()
        again.load_state_dict(state)
        assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())
    finally:
        torch.distributed.destroy_process_group()


def adversarial_model() -> AdversarialModel:
    arch = {'embed_dims': (8, 4), 'num_heads': (2, 1), 'depths': (1, 1)}
    generator = {'type': 'mmvit_ext.NesTGenerator', 'arch': arch, 'noise_dims': 5}
    return AdversarialModel(generator, {'type': 'mmvit_ext.ConvDiscriminator', 'embed_dims': (8, 16)})


def test_the_backend_is_mmengines_for_local_files_except_for_writing(tmp_path: Path) -> None:
    backend = get_file_backend(str(tmp_path), backend_args={'backend': ATOMIC_BACKEND})
    assert isinstance(backend, AtomicLocalBackend)
    backend.put(b'content', tmp_path / 'a' / 'file')
    assert backend.get(tmp_path / 'a' / 'file') == b'content'
    backend.rmtree(tmp_path / 'a')
    assert not (tmp_path / 'a').exists()


def test_files_elsewhere_keep_the_backend_of_the_config(tmp_path: Path) -> None:
    hook = AtomicCheckpointHook(by_epoch=False, interval=1, backend_args={'backend': 'local'})
    hook.before_train(make_runner(tmp_path))
    assert hook.backend_args == {'backend': 'local'}
