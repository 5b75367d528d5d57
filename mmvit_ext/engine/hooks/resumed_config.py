"""A resumed run follows its own config, where mmengine takes rates and schedules from the checkpoint."""

import ast
import copy
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmvit_ext.checks.before_run import batch_size_of
from mmvit_ext.config.walking import walk
from mmvit_ext.engine.optimizers import merged_groups
from mmvit_ext.errors import UserError, same_on_every_process
from mmvit_ext.registry import HOOKS

from .deferred_info import wrappers_by_name
from .reports import bare_model

__all__ = ['ResumedConfigHook', 'config_differences', 'read_config_text']

_SECTIONS = ['model', 'data_preprocessor', 'train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler']
_SECTIONS += ['auto_scale_lr', 'val_dataloader', 'val_cfg', 'val_evaluator', 'default_hooks', 'custom_hooks']
_SHOWN = 20
_ABSENT = 'not set'
_PROGRESS = {'last_step', '_global_step', '_last_value', 'verbose'}  # of a schedule; all else in its state is its plan


@HOOKS.register_module()
class ResumedConfigHook(Hook):
    """Compares the config of a resumed run with that of its checkpoint, and lets the run follow its own.

    Every difference is logged before the first iteration. Where options of the optimizer or schedules differ, those of
    the config hold: rates continue at the resumed iteration as if the run had had these schedules from its beginning.
    A checkpoint with a group for each parameter, as mmengine makes them, continues with one for each setting, as
    :class:`mmvit_ext.MergedGroupsConstructor` makes them, and the other way round. Whether a step is fused is decided
    by the machine at hand. Another type of optimizer or training loop, other parameter groups and a changed
    ``ReduceOnPlateauLR`` are refused.

    Raises:
        UserError: The checkpoint cannot be continued with this config.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._resumed = self._changed = False

    def after_load_checkpoint(self, runner: Runner, checkpoint: Any) -> None:
        """Compare, and take the options of the optimizer from the config where they or the schedules differ."""
        ready = isinstance(runner, Runner) and isinstance(checkpoint, dict) and 'optimizer' in checkpoint
        if not ready or not runner._resume or runner._train_loop is None:
            return  # FlexibleRunner's strategies load optimizers their own way
        self._resumed = True
        try:
            self._changed = _compare(runner, checkpoint)
        except (AttributeError, KeyError, TypeError) as error:
            _refuse(runner, f'its content has a form that is not known here ({type(error).__name__}: {error})')

    def before_train(self, runner: Runner) -> None:
        """Bring changed schedules to the resumed iteration, and tell where a run has nothing left to learn."""
        if self._changed:
            _advance(runner)
        if not self._resumed:
            return
        wrappers = wrappers_by_name(runner.optim_wrapper).values()
        rates = [group.get('lr') for wrapper in wrappers for group in wrapper.param_groups]
        place = f'iteration {runner.iter} of {runner.max_iters}'
        if runner.iter >= runner.max_iters:
            remedy = 'a longer train_cfg and param_scheduler train on'
            runner.logger.warning(f'the checkpoint is of {place}: nothing is left to do; {remedy}')
        elif all(rate == 0 for rate in rates):  # some optimizers have a rate of None, which they find by themselves
            remedy = 'param_scheduler ends before train_cfg does; set its end (or T_max, total_iters) to that'
            runner.logger.warning(f'every learning rate is 0 at {place}: {remedy}')


def _compare(runner: Runner, checkpoint: dict[str, Any]) -> bool:
    """Report differences and let the checkpoint follow the config; whether schedules have to be brought forward."""
    old = read_config_text((checkpoint.get('meta') or {}).get('cfg'))
    processes = len((checkpoint.get('exact_resume') or {}).get('generators') or '1')
    regrouped = _regroup(runner, checkpoint)
    relevant = regrouped or old is None or processes != runner.world_size
    if old is not None:
        new = read_config_text(runner.cfg.pretty_text) or {}
        differences = config_differences(*({key: cfg.get(key) for key in _SECTIONS} for cfg in (old, new)))
        _report(runner, old, new, differences, processes)
        relevant |= any(re.match('optim_wrapper|param_scheduler|auto_scale_lr|train_', key) for key in differences)
    return relevant and _use_config(runner, checkpoint, regrouped)


def _refuse(runner: Runner, reason: str) -> NoReturn:
    remedy = 'change it back, or start from the weights with --cfg-options load_from=FILE and without --resume'
    config = runner.cfg.filename or 'this config'
    with same_on_every_process():
        raise UserError(f'the checkpoint cannot be resumed with {config}: {reason}: {remedy}')


def _report(
    runner: Runner, old: Mapping[str, Any], new: Mapping[str, Any], differences: Mapping[str, Any], processes: int
) -> None:
    """Log what differs, and refuse what cannot be continued."""
    was, now = (
        'epochs' if loop.get('by_epoch', 'Epoch' in str(loop.get('type'))) else 'iterations'
        for loop in (cfg.get('train_cfg') or {} for cfg in (old, new))
    )
    if was != now:
        _refuse(runner, f'its training counted {was}, that of the config counts {now}')
    for key, (before, after) in differences.items():
        if re.fullmatch(r'optim_wrapper\.(.*\.)?optimizer\.type', key):
            _refuse(runner, f'{key} was {before} and is {after}, which keeps other values')
    if differences:
        lines = [f'  {key}: {before!r} -> {after!r}' for key, (before, after) in differences.items()]
        lines[_SHOWN:] = [f'  and {len(lines) - _SHOWN} more'] if len(lines) > _SHOWN else []
        runner.logger.warning('\n'.join(['the config differs from that of the resumed checkpoint:', *lines]))
    then, size = batch_size_of(Config(dict(old)), processes), batch_size_of(runner.cfg, runner.world_size)
    if then and size and then.total != size.total:
        change = f'the checkpoint was trained with a {then}; now it is a {size}'
        runner.logger.warning(f'{change}: iterations count other images')


def _regroup(runner: Runner, checkpoint: dict[str, Any]) -> bool:
    """Bring the checkpoint's optimizers to this run's groups of parameters, put together or not; whether so."""
    changed = False
    for name, wrapper in wrappers_by_name(runner.optim_wrapper).items():
        state = (checkpoint['optimizer'] or {}).get(name) if name else checkpoint['optimizer']
        if not isinstance(state, dict) or 'param_groups' not in state:
            continue
        if state.get('loss_scaler') == {}:  # of a run in bfloat16, which PyTorch's scaler refuses to load
            del state['loss_scaler']
        groups = [group['params'] for group in wrapper.optimizer.param_groups]
        saved = _saved_order(bare_model(runner.model), wrapper.optimizer.param_groups, state['param_groups'])
        if saved is not None:
            stored = [index for group in state['param_groups'] for index in group['params']]
            index_of = {id(parameter): index for parameter, index in zip(saved, stored, strict=True)}
            order = [index_of[id(parameter)] for parameters in groups for parameter in parameters]
            state['state'] = {new: state['state'][old] for new, old in enumerate(order) if old in state['state']}
            places = iter(range(len(order)))
            state['param_groups'] = [{'params': [next(places) for _ in parameters]} for parameters in groups]
            base = wrapper.base_param_settings
            state.pop('base_param_settings', None)
            if base is not None:
                state['base_param_settings'] = copy.deepcopy(base)
            changed = True
        for entry, group in zip(state['param_groups'], wrapper.optimizer.param_groups, strict=False):
            entry.update({option: group[option] for option in ('fused', 'foreach') if option in group})
    return changed


def _saved_order(model: Any, groups: Sequence[Mapping[str, Any]], stored: Sequence[Mapping[str, Any]]) -> Any:
    """The parameters of this run's optimizer in the order in which a checkpoint with other groups has them, or None."""
    was, now = ([len(group['params']) for group in side] for side in (stored, groups))
    if was == now or sum(was) != sum(now):
        return None
    if set(was) == {1}:
        ours = {id(parameter) for group in groups for parameter in group['params']}
        return [parameter for parameter in model.parameters() if id(parameter) in ours]
    merged = merged_groups([dict(group) for group in groups])
    if set(now) == {1} and [len(group['params']) for group in merged] == was:
        return [parameter for group in merged for parameter in group['params']]
    return None


def _use_config(runner: Runner, checkpoint: dict[str, Any], changed: bool = False) -> bool:
    """Replace options in the checkpoint's optimizer by the config's if these or the schedules differ; whether so."""
    wrappers = wrappers_by_name(runner.optim_wrapper)
    states, plans, saved_plans = (
        {name: (entry or {}).get(name) if name else entry for name in wrappers}
        for entry in (checkpoint['optimizer'], runner.param_schedulers, checkpoint.get('param_schedulers'))
    )
    pairs: list[tuple[dict[str, Any], Mapping[str, Any]]] = []
    for name, wrapper in wrappers.items():
        state = states[name] or {'param_groups': []}
        stored = [*state['param_groups'], *filter(None, [state.get('base_param_settings')])]  # as in param_groups
        groups = wrapper.param_groups
        was, now = ([len(group['params']) for group in side] for side in (stored, groups))
        if was != now:
            if set(bare_model(runner.model).state_dict()) != set(checkpoint['state_dict']):
                return False  # another model, which the report of the weights refuses
            counts = f'{sum(was)} parameters in {len(was)} groups, that of the config {sum(now)} in {len(now)}'
            reason = 'constructor, paramwise_cfg or frozen parts differ'
            _refuse(runner, f'its optimizer {name} has {counts} ({reason})')
        mine, saved = plans[name] or [], saved_plans[name] or []
        moved = {'params', *(plan.param_name for plan in mine), *(plan.get('param_name') for plan in saved)}
        fixed = [[{k: v for k, v in g.items() if k not in moved} for g in side] for side in (stored, groups)]
        differs = fixed[0] != fixed[1] or [_plan(plan) for plan in saved] != [_plan(plan.state_dict()) for plan in mine]
        if differs and any(getattr(plan, 'need_val_args', False) for plan in mine):
            _refuse(runner, 'optimizer or param_scheduler differ, and ReduceOnPlateau depends on past validations')
        changed |= differs
        pairs += zip(stored, groups, strict=True)
    if changed:
        checkpoint.pop('param_schedulers', None)
        for then, group in pairs:
            options = {key: copy.deepcopy(value) for key, value in group.items() if key != 'params'}
            params = then['params']
            then.clear()
            then.update(options, params=params)
    return changed


def _plan(state: Mapping[str, Any]) -> dict[str, Any]:
    if 'num_bad_epochs' in state:
        return {}  # what a ReduceOnPlateau schedule has seen changes all of it
    return {key: value for key, value in state.items() if key not in _PROGRESS}


def _advance(runner: Runner) -> None:
    """Step the schedules, which are at their beginning, as often as the run has come."""
    by_name = runner.param_schedulers if isinstance(runner.param_schedulers, dict) else {'': runner.param_schedulers}
    plans: list[Any] = [plan for entry in by_name.values() for plan in entry or []]
    epochs = runner.epoch
    length = len(runner.train_dataloader) if epochs else 1  # not every dataset that is read endlessly has a length
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # that schedules step before the optimizer
        for iteration in range(1, runner.iter + 1):
            at_end = epochs > 0 and iteration % length == 0
            epochs -= at_end
            for plan in plans:
                if at_end or not plan.by_epoch:
                    plan.step()
        for plan in plans * epochs:  # of epochs with another batch size
            if plan.by_epoch:
                plan.step()


def read_config_text(text: Any) -> dict[str, Any] | None:
    """The values in mmengine's ``Config.pretty_text``, read without executing it; ``None`` where it is no such text."""
    try:
        statements = ast.parse(text).body
        return {s.targets[0].id: _value(s.value) for s in statements if isinstance(s, ast.Assign)}  # type: ignore[attr-defined]
    except (AttributeError, MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
        return None


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict' and not node.args:
        parts = [{k.arg: _value(k.value)} if k.arg else _value(k.value) for k in node.keywords]
        return {str(key): value for part in parts for key, value in part.items()}
    if isinstance(node, ast.Dict) and all(node.keys):
        return {ast.literal_eval(k): _value(v) for k, v in zip(node.keys, node.values, strict=True) if k is not None}
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(entry) for entry in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def config_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Old and new value of each entry that is another one, by dotted key."""
    before, after = (
        {key: value for key, value in walk(node) if not (isinstance(value, Mapping | list) and value)}
        for node in (old, new)
    )
    pairs = {key: (before.get(key, _ABSENT), after.get(key, _ABSENT)) for key in sorted({*before, *after})}
    return {key: pair for key, pair in pairs.items() if _name(key, pair[0]) != _name(key, pair[1])}


def _name(key: str, value: Any) -> str:
    # A type is the same whether it is written with or without its scope, or as a class.
    return str(value).rpartition('.')[2] if key.endswith('type') else repr(value)
