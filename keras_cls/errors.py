"""The errors that a user can cause; whatever else escapes the package is a bug.

Each message says what was wrong, where, and what to do about it. The command line prints the
message alone; a program catches :class:`UserError`, a ``ValueError``.
"""

from signal import SIGINT

GO_ON_CODE = 75
"""EX_TEMPFAIL of sysexits.h: the process ended early, and the same command goes on."""


class UserError(ValueError):
    """Something that the caller can put right: a file, a folder, an argument.

    ``exit_code`` is what a command ends with.
    """

    exit_code = 1


class ImageError(UserError):
    """An image cannot be read. The message begins with the image's name."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.name, self.reason)


class DataError(UserError):
    """A data source cannot be used as it is: its folders, its rows, its labels."""


class ConfigError(UserError):
    """Arguments, or a file's fields, that do not make sense or do not fit each other."""


class ExportError(UserError):
    """A model cannot be exported, or its export does not agree with it."""


class TrainingDivergedError(UserError):
    """The loss became infinite or not a number."""


class TrainingStoppedError(UserError):
    """Somebody asked the run to stop. All is saved; the same call goes on.

    ``signal`` is the one that asked: ``signal.SIGTERM`` or ``signal.SIGINT``.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal
        self.exit_code = 130 if signal == SIGINT else GO_ON_CODE

    def __reduce__(self) -> tuple[type, tuple[str, int]]:
        return type(self), (str(self), self.signal)


class WorkerLostError(UserError):
    """Another worker of the cluster is gone, or did not come. Started again, the run goes on."""

    exit_code = GO_ON_CODE


class ServingError(UserError):
    """A prediction service refused a request or could not be reached.

    ``code`` is the gRPC status code's name, such as ``"UNAVAILABLE"``.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (str(self), self.code)
