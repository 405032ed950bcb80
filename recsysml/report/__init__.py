"""`recsysml report RUN...`: one HTML file to look at, which opens anywhere and asks the network for nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recsysml.errors import ConfigError
from recsysml.files import outputs_dir, write_atomic


def write_report(names: Sequence[str], output: Path | None = None) -> tuple[Path, int]:
    """Writes the report of these runs and returns its path and how many runs are in it.

    names: run directories, results.json files, ids of runs, folders (every run below them, sweeps too). output: where
    to; None is `report.html` in the folder that was named, or in the outputs folder if several were.
    Raises ConfigError, one line, if a run is not there or damaged, or `output` cannot be written.
    """
    from recsysml.report.gather import gather
    from recsysml.report.page import render

    runs = gather(names)
    if output is None:
        only = Path(names[0]).expanduser() if len(names) == 1 else None
        output = (only if only is not None and only.is_dir() else outputs_dir()) / "report.html"
    if output.is_dir():
        raise ConfigError(f"-o {output}: it is a folder; name a file, such as {output / 'report.html'}")
    content = render(runs)
    try:
        write_atomic(output, content)
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error.strerror or error}; -o names another file") from error
    return output, len(runs)
