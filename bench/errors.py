"""The one exception that means: the caller asked for something that is not allowed."""


class UsageError(ValueError):
    """A value that is not allowed; the message is one line that names the value and what is allowed (exit code 2)."""
