"""What a person sees while a run goes on: a live bar in a terminal, one line an epoch elsewhere."""

from typing import Any

import keras
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class TrainingProgress(keras.callbacks.Callback):
    """A bar for the running epoch; each finished epoch leaves one line."""

    def __init__(self, console: Console, epochs: int, steps: int) -> None:
        super().__init__()
        self._console = console
        self._epochs = epochs
        self._steps = steps
        self._bar = progress_bar(console)
        self._task = self._bar.add_task("", total=steps, figures="", visible=False)

    def on_train_begin(self, logs: Any = None) -> None:
        """Show the bar."""
        self._bar.start()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the bar anew."""
        title = f"epoch {epoch + 1}/{self._epochs}"
        self._bar.reset(self._task, description=title, total=self._steps, figures="", visible=True)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Move on, with the epoch's figures so far."""
        self._bar.update(self._task, advance=1, figures=_figures(logs or {}))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Leave the epoch's line."""
        width = len(str(self._epochs))
        self._console.print(
            f"epoch {epoch + 1:>{width}}/{self._epochs}  {_figures(logs or {})}", highlight=False
        )

    def on_train_end(self, logs: Any = None) -> None:
        """Remove the bar."""
        self.close()

    def close(self) -> None:
        """Remove the bar, also where training was cut short."""
        self._bar.update(self._task, visible=False)
        self._bar.stop()


class ScanProgress:
    """A bar for the scan of image files; shows nothing for a handful of files."""

    def __init__(self, console: Console) -> None:
        self._bar = progress_bar(console)
        self._task = self._bar.add_task("looking at the images", total=None, figures="")

    def __enter__(self) -> "ScanProgress":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.update(self._task, visible=False)
        self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """Told how far the scan is."""
        self._bar.update(self._task, completed=done, total=total)


def progress_bar(console: Console) -> Progress:
    """The bar that all of them share."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[figures]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _figures(logs: dict[str, float]) -> str:
    names = {"loss": "loss", "accuracy": "acc", "val_loss": "val_loss", "val_accuracy": "val_acc"}
    return "  ".join(f"{short} {logs[key]:.4f}" for key, short in names.items() if key in logs)
