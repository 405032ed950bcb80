"""The errors a user meets. Each carries one line that says what to do and the exit code of CONTRACT."""

from __future__ import annotations


class ConfigError(ValueError):
    """The command or the config is wrong; nothing was written. Exit code 2."""

    exit_code = 2


class NoSuchKey(ConfigError):
    """A key that the config does not have."""

    def __init__(self, key: str, hint: str) -> None:
        super().__init__(f"{key}: there is no such key. {hint}".rstrip())
        self.key = key


class DataError(ValueError):
    """Data that cannot be used: a missing file, a wrong checksum, a bad row.

    Exit code 2 when found before a run directory exists, else 1 (the launcher decides by where it caught it).
    """

    exit_code = 2


class JobError(RuntimeError):
    """The job failed for a reason the user can act on (divergence, damaged checkpoints). Exit code 1."""

    exit_code = 1


class Interrupted(RuntimeError):
    """SIGINT or SIGTERM: the checkpoint was saved and the run can be resumed. Exit code 130."""

    exit_code = 130
