"""Weights & Biases as a copy of the record. It never asks anything, never blocks a step and never ends a run.

The only module that imports wandb.
"""

from __future__ import annotations

import netrc
import os
import queue
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from recsysml.runlog import logger

# How long the end of a run waits for W&B: offline it only closes files, online it sends what is left.
FINISH_SECONDS = {"offline": 20.0, "online": 60.0}

_END = object()


class Tracker:
    """One W&B run in a thread of its own: starting it, sending to it and a dead network never hold up training.

    Any failure is one warning; what follows is dropped, and metrics.jsonl and results.json have it all the same.
    """

    def __init__(self, mode: str, settings: dict[str, Any]) -> None:
        self.mode = mode
        self._settings = settings
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._failed = threading.Event()
        self._directory: str | None = None
        self._thread: threading.Thread | None = None

    @classmethod
    def start(
        cls,
        mode: str,
        project: str,
        group: str | None,
        tags: Sequence[str],
        run_dir: Path,
        run_id: str,
        config: Mapping[str, Any],
    ) -> Tracker:
        """mode: auto, online, offline or disabled (see `resolve_mode`). A resumed run gives the same run_id again.

        W&B's files go to `<run_dir>/wandb`, or to $WANDB_DIR if the user set it.
        """
        tracker = cls(
            resolve_mode(mode),
            {
                "project": project,
                "group": group,
                "tags": list(tags),
                "id": run_id,
                "name": run_id,
                "config": dict(config),
                "dir": os.environ.get("WANDB_DIR") or str(run_dir),
            },
        )
        if tracker.mode == "disabled":
            return tracker
        try:
            os.environ.setdefault("WANDB_SILENT", "true")  # its login speaks before it reads the settings of `init`
            # Imported here, not in the thread: two threads importing at once can see half-made modules.
            import wandb  # noqa: F401
        except (Exception, SystemExit) as error:
            tracker._give_up(error)
            return tracker
        tracker._thread = threading.Thread(target=tracker._work, name="wandb", daemon=True)
        tracker._thread.start()
        return tracker

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Hands the numbers over and returns at once."""
        if self._thread is not None and not self._failed.is_set():
            numbers = {name: value for name, value in values.items() if value is not None}
            self._queue.put({"step": step, **numbers})

    def finish(self, status: str, metrics: Mapping[str, float | None]) -> None:
        """Ends the W&B run with the final metrics as its summary; waits at most `FINISH_SECONDS` for it."""
        if self._thread is None or self._failed.is_set():
            return
        self._queue.put((_END, status, dict(metrics)))
        limit = FINISH_SECONDS[self.mode]
        self._thread.join(limit)
        if self._thread.is_alive():
            self._failed.set()
            logger.warning("W&B was not done after %g s and was left behind%s", limit, self._hint())
        elif self.mode == "offline" and not self._failed.is_set():
            logger.info("W&B: kept offline%s", self._hint())

    def _hint(self) -> str:
        return f"; `wandb sync {self._directory}` uploads it" if self._directory else ""

    def _work(self) -> None:
        try:
            run = self._init()
            if run.dir:  # <folder>/files
                folder = Path(run.dir).parent
                here = Path.cwd()
                self._directory = str(folder.relative_to(here) if folder.is_relative_to(here) else folder)
            while True:
                item = self._queue.get()
                if isinstance(item, tuple):
                    _, status, metrics = item
                    run.summary.update({"status": status, **metrics})
                    run.finish(exit_code=0 if status == "ok" else 1)
                    return
                run.log(item)
        except (Exception, SystemExit) as error:
            self._give_up(error)

    def _init(self) -> Any:
        import wandb

        run = wandb.init(
            **self._settings,
            mode="online" if self.mode == "online" else "offline",
            resume="allow" if self.mode == "online" else None,  # offline, the same id is joined at `wandb sync`
            settings=wandb.Settings(
                silent=True,
                console="off",  # it would wrap stdout and stderr, where our progress bar lives
                init_timeout=30,
                login_timeout=1,  # an answer nobody gives is never waited for
            ),
        )
        # Steps are an axis of ours: W&B's own counter refuses the rows that a resumed run logs again.
        run.define_metric("step", hidden=True)
        run.define_metric("*", step_metric="step")
        return run

    def _give_up(self, error: BaseException) -> None:
        if not self._failed.is_set():
            self._failed.set()
            reason = str(error).strip().partition("\n")[0]
            logger.warning("W&B is off for this run (%s: %s); the record goes on", type(error).__name__, reason)


def resolve_mode(mode: str) -> str:
    """What a `tracker.mode` means here: online, offline or disabled.

    `auto` follows $WANDB_MODE if the user set it, else is online with an API key and offline without. `online` without
    a key is offline, with a warning: W&B would stop and ask.
    """
    if mode == "auto":
        wish = os.environ.get("WANDB_MODE", "").lower()
        wish = {"dryrun": "offline", "run": "online"}.get(wish, wish)
        mode = wish if wish in ("online", "offline", "disabled") else "online" if has_key() else "offline"
    if mode == "online" and not has_key():
        logger.warning("W&B: online was asked for but there is no key (WANDB_API_KEY or `wandb login`); kept offline")
        return "offline"
    return mode


def has_key() -> bool:
    """Whether W&B can log in without asking: WANDB_API_KEY is set, or the netrc file has an entry for its host."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    named = os.environ.get("NETRC")
    for path in [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if netrc.netrc(str(path)).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
