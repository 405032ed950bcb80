"""Sections: what is written is what is read; what is damaged is named by its place."""

from __future__ import annotations

import json

import numpy as np
import pytest

from recsysml import sections
from recsysml.errors import ConfigError
from recsysml.results import Run


def test_a_run_lists_its_sections_and_they_read_back(tmp_path):
    run = Run.create(tmp_path, "train", "x", argv=[], config={}, overrides=[])
    parts = [
        sections.table("t", ["a", "b"], [[np.int64(1), None], ["x", float("nan")]]),
        sections.curves("c", "x", "y", {"one": (np.arange(3), [1.0, float("inf"), 3.0])}),
        sections.bars("b", "v", [{"label": "l", "value": 1}, {"label": "gone", "value": None}]),
        sections.reliability("r", [{"predicted": 0.1, "observed": 0.2, "count": 3}, {"count": 0}]),
        sections.bars("empty", "v", []),
    ]
    run.section("s", "Title", parts, note="why")
    run.section("s", "Title", parts, note="why")
    run.finish("ok")
    assert run.record["artifacts"]["sections"] == ["sections/s.json"]
    content = sections.read(run.path / "sections" / "s.json")
    assert (content["title"], content["note"]) == ("Title", "why")
    table, curves, bars, bins = content["parts"]
    assert table["rows"] == [[1, None], ["x", "nan"]]
    assert [(point["x"], point["y"]) for point in curves["points"]] == [(0, 1.0), (2, 3.0)]
    assert [bar["label"] for bar in bars["bars"]] == ["l"]
    assert bins["bins"] == [{"curve": "", "predicted": 0.1, "observed": 0.2, "count": 3, "low": None, "high": None}]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"schema": "x"}, "schema"),
        ({"title": 3}, "title"),
        ({"parts": {}}, "parts"),
        ({"parts": [3]}, r"parts\[0\]"),
        ({"parts": [{"kind": "html", "title": ""}]}, r"parts\[0\]\.kind"),
        ({"parts": [{"kind": "table", "title": "", "columns": ["a"], "rows": [[1, 2]]}]}, r"rows\[0\]"),
        ({"parts": [{"kind": "bars", "title": "", "value": "", "bars": [{"label": "a"}]}]}, r"bars\[0\]\.value"),
        ({"parts": [{"kind": "bars", "title": "", "value": "", "bars": [{"value": 1}]}]}, r"bars\[0\]\.label"),
        ({"parts": [{"kind": "curves", "title": "", "x": "", "y": ""}]}, r"parts\[0\]\.log_x"),
        ({"parts": [{"kind": "reliability", "title": "", "bins": [{"curve": "", "predicted": True}]}]}, "predicted"),
    ],
)
def test_damage_is_named_by_its_place(tmp_path, change, place):
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"schema": sections.SCHEMA, "title": "t", "note": "", "parts": [], **change}))
    with pytest.raises(ConfigError, match=place) as caught:
        sections.read(path)
    assert str(path) in str(caught.value)
