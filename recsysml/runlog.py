"""What a run says: everything with its time into run.log, plain lines on the screen."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from pathlib import Path

logger = logging.getLogger("recsysml")
_python_warnings = logging.getLogger("py.warnings")


class RunLog:
    """run.log of one run, open from its start to its end. Loggers "recsysml" and Python's warnings go into it."""

    def __init__(self, path: Path) -> None:
        self._file = _LogFile(path, encoding="utf-8")
        formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
        formatter.converter = time.gmtime
        self._file.setFormatter(formatter)
        logger.setLevel(logging.INFO)
        logger.addHandler(self._file)
        _python_warnings.addHandler(self._file)
        logging.captureWarnings(True)
        show()

    def lock(self) -> bool:
        """Marks the run as being at work until this process ends. False if another process is at work in it."""
        try:
            import fcntl
        except ImportError:  # not on Windows
            return True
        assert self._file.stream is not None
        try:
            # A record lock, since a child made by fork (a loader's worker that outlives a kill -9) does not inherit it.
            fcntl.lockf(self._file.stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        except OSError:  # a file system without locks
            pass
        return True

    def close(self) -> None:
        logging.captureWarnings(False)
        logger.removeHandler(self._file)
        _python_warnings.removeHandler(self._file)
        self._file.close()


def show() -> None:
    """Puts what is said on the screen (standard error), once however often it is called."""
    logger.setLevel(logging.INFO)
    for source in (logger, _python_warnings):
        if not any(isinstance(handler, _Screen) for handler in source.handlers):
            source.addHandler(_Screen())


class _LogFile(logging.FileHandler):
    """A full disk costs log lines, never the run; it is said once, not with a traceback for every line."""

    _said = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self._said:
            self._said = True
            print(f"warning: {self.baseFilename} cannot be written: {sys.exc_info()[1]}", file=sys.stderr)


class _Screen(logging.Handler):
    """One plain line each, without tracebacks: those are in run.log. The stream is looked up at each line, so that a
    progress bar which has taken over standard error keeps its place below the text."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.name == "py.warnings":
            # "path:line: Category: message" and the source line below it: the screen gets the message alone
            text = text.splitlines()[0].split(": ", 2)[-1]
        prefix = {logging.INFO: "", logging.WARNING: "warning: "}.get(record.levelno, "error: ")
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone; run.log still has the line
            print(prefix + text, file=sys.stderr, flush=True)
