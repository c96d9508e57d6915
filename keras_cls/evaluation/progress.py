"""The bar that a person at a terminal sees while images are scanned and judged."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class ImageProgress:
    """A bar that counts images; shows nothing where nobody watches.

    Args:
        title: what is done to the images.
        quiet: show nothing at a terminal either.
    """

    def __init__(self, title: str, *, quiet: bool = False) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=None, speed="")

    def __enter__(self) -> "ImageProgress":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """Told how many images of all are done."""
        self._bar.update(self._task, completed=done, total=total)
        speed = self._bar.tasks[0].speed
        if speed is not None:
            self._bar.update(self._task, speed=f"{speed:,.{1 if speed < 10 else 0}f} images/s")
