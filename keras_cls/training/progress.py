"""What a person sees while a run goes on: a live bar in a terminal, one line an epoch elsewhere."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from keras_cls.training.figures import Figures
from keras_cls.training.loop import Watcher

_SHOWN = {
    "loss": "loss {:.4f}",
    "accuracy": "top-1 {:.1%}",
    "top5": "top-5 {:.1%}",
    "val_loss": "| validation loss {:.4f}",
    "val_accuracy": "top-1 {:.1%}",
    "val_top5": "top-5 {:.1%}",
    "val_map": "mAP {:.1%}",
    "images_per_second": "| {:,.0f} images/s",
    "learning_rate": "rate {:.2g}",
}
_REDRAWN = 0.25  # seconds


class TrainingProgress(Watcher):
    """A bar for the running epoch; each finished epoch leaves one line.

    Args:
        console: where to show it.
        epochs: of the run.
        steps: of an epoch.
        learning_rate: asked when the bar is drawn.
        multi_label: whether what is counted are answers, and not images.
    """

    def __init__(
        self,
        console: Console,
        epochs: int,
        steps: int,
        learning_rate: Callable[[], float],
        multi_label: bool = False,
    ) -> None:
        self._console = console
        self._epochs = epochs
        self._steps = steps
        self._learning_rate = learning_rate
        self._right = "right" if multi_label else "top-1"
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[figures]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=steps, figures="", visible=False)
        self._drawn = self._begun = 0.0
        self._done = self._images = 0
        self._bar.start()

    def begin_epoch(self, epoch: int, step: int) -> None:
        """Start the bar anew."""
        self._begun = time.monotonic()
        self._done, self._images = step, 0
        self._bar.reset(
            self._task,
            description=f"epoch {epoch + 1}/{self._epochs}",
            total=self._steps,
            completed=step,
            figures="",
            visible=True,
        )

    def step(self, figures: Figures, images: int) -> None:
        """Move on, with the epoch's figures so far."""
        self._done += 1
        self._images += images
        now = time.monotonic()
        if self._bar.disable or now - self._drawn < _REDRAWN:
            return
        self._drawn = now
        shown = {
            **figures.means(),
            "images_per_second": self._images / max(now - self._begun, 1e-9),
            "learning_rate": self._learning_rate(),
        }
        self._bar.update(self._task, completed=self._done, figures=self._line(shown))

    def end_epoch(self, row: dict[str, float]) -> None:
        """Leave the epoch's line."""
        self._bar.update(self._task, visible=False)
        width = len(str(self._epochs))
        epoch = f"epoch {int(row['epoch']):>{width}}/{self._epochs}"
        self._console.print(f"{epoch}  {self._line(row)}", highlight=False, markup=False)

    def close(self) -> None:
        """Remove the bar, also where training was cut short."""
        self._bar.update(self._task, visible=False)
        self._bar.stop()

    def _line(self, figures: dict[str, float]) -> str:
        parts = [shown.format(figures[key]) for key, shown in _SHOWN.items() if key in figures]
        return "  ".join(parts).replace("top-1", self._right)
