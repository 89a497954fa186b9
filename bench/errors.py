"""Exceptions that a user meets as one line."""


class UsageError(ValueError):
    """A value that is not allowed; the message is one line that names the value and what is allowed (exit code 2)."""


class BadRecordError(ValueError):
    """A stored file that cannot be read; the message names the file and the fault."""


class EngineError(RuntimeError):
    """An engine cannot work at all; the message says why."""


class LostProcessError(RuntimeError):
    """Another process of the same run is gone; this one cannot go on either."""


class StorageError(RuntimeError):
    """A file could not be written, as on a full disk; the message names it. What was there before is whole."""


class MissingExtraError(ImportError):
    """A workload needs libraries of an optional dependency of this project; `extra` is its name."""

    def __init__(self, extra: str) -> None:
        super().__init__(f"pip install 'optimizer-bench[{extra}]'")
