"""Pictures of a run: drawn before the training and every so often during it."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

__all__ = [
    'DrawingHook',
]


class DrawingHook(Hook):
    """Decides when is drawn; what is drawn is said by :meth:`draw`.

    Args:
        interval: Iterations between pictures, or epochs, at least 1.
        by_epoch: Whether the interval counts epochs.

    Raises:
        ValueError: The interval is below 1.
    """

    priority = 'LOW'

    def __init__(self, interval: int, by_epoch: bool) -> None:
        if interval < 1:
            raise ValueError(f'interval must be at least 1, got {interval}')
        self.interval, self.by_epoch = interval, by_epoch

    def draw(self, runner: Runner, step: int) -> None:
        """Draw on the runner's visualizer.

        Args:
            runner: The run.
            step: Iterations or epochs that are done.
        """
        raise NotImplementedError

    def before_train(self, runner: Runner) -> None:
        """Draw what there is before the first step."""
        self.draw(runner, runner.epoch if self.by_epoch else runner.iter)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | tuple | list | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Draw every ``interval`` iterations."""
        if not self.by_epoch and self.every_n_train_iters(runner, self.interval):
            self.draw(runner, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """Draw every ``interval`` epochs."""
        if self.by_epoch and self.every_n_epochs(runner, self.interval):
            self.draw(runner, runner.epoch + 1)
