"""The errors that a user can cause; whatever else escapes the package is a bug.

Each message says what was wrong, where, and what to do about it. The command line prints the
message alone; a program catches :class:`UserError`, a ``ValueError``.
"""


class UserError(ValueError):
    """Something that the caller can put right: a file, a folder, an argument."""


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


class ServingError(UserError):
    """A prediction service refused a request or could not be reached.

    ``code`` is the gRPC status code's name, such as ``"UNAVAILABLE"``.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (str(self), self.code)
