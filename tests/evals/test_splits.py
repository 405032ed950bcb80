"""What is known of a text's splits before a run begins."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recsysml import evals
from recsysml.config import compose
from recsysml.errors import ConfigError
from recsysml.evals import splits


@pytest.mark.parametrize(
    ("words", "there"),
    [
        (["data.test_fraction=0"], False),
        (["data.test_fraction=0.1"], True),
        (["data=text", "data.path=x.txt", "data.test_fraction=0"], False),
        (["data=text", "data.path=x.txt", "data.test_fraction=0", "data.test_path=y.txt"], True),
    ],
)
def test_a_test_split_that_is_not_there(words: list[str], there: bool) -> None:
    splits.check(compose([*words, "eval.split=val"]))
    config = compose([*words, "eval.split=test"])
    if there:
        splits.check(config)
    else:
        with pytest.raises(ConfigError, match=f"eval.split=test: {config.data.name} has no test split"):
            splits.check(config)


def test_the_checks_import_no_torch() -> None:
    program = (
        "import sys\nfrom recsysml import evals, lazy\n"
        "for reference in evals.CHECKS.values():\n    lazy.resolve(reference)\n"
        "assert 'torch' not in sys.modules"
    )
    assert set(evals.CHECKS) <= set(evals.KINDS)
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
