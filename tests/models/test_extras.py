"""A library that is missing is one line with its mend, before any work."""

import importlib.util

import pytest

from recsysml.cli import main
from recsysml.errors import ConfigError
from recsysml.models import KINDS, extras


@pytest.mark.parametrize("words", [["model=bpr"], ["model=als"], ["model=popularity", "eval.baselines=[bpr]"]])
def test_a_missing_extra_is_exit_2_and_nothing_is_written(monkeypatch, own_outputs, capsys, words):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "implicit" else find(name, *a))
    assert main(["train", *words]) == 2
    assert "pip install 'recsysml[implicit]'" in capsys.readouterr().err
    assert not own_outputs.exists()


def test_other_kinds_need_nothing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None)
    for kind in set(KINDS) - set(extras.EXTRAS):
        extras.check(kind)
    with pytest.raises(ConfigError, match="needs implicit"):
        extras.check("als")
