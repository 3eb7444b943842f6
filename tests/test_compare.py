"""Evaluations beside one another: what may be compared is, what may not is said, and everybody has a name."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from command import call
from reporting import carried, evaluate, fake_run, played, suite
from safer_steer.bench.books import images_of
from safer_steer.report import write_comparison
from safer_steer.store import RunFolder

pytestmark = pytest.mark.filterwarnings("ignore:The confidence interval is undefined")
Capture = pytest.CaptureFixture[str]


def compared(out: Path, *folders: Path) -> tuple[dict[str, Any], str]:
    """The summary of a comparison, and the words of its page."""
    page = write_comparison(folders, out).read_text()
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    body = page[: page.index('<script type="text/plain"')]
    return found, " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def evaluated(folder: Path, model: str, count: int = 12, **more: Any) -> Path:
    evaluate(folder, [played(one, model, "static") for one in suite(RunFolder(folder), count)], model, "static", **more)
    return folder


def test_a_model_that_stands_twice_is_called_after_its_folders(tmp_path: Path) -> None:
    one, two = evaluated(tmp_path / "runs" / "a" / "x", "sft"), evaluated(tmp_path / "runs" / "b" / "x", "sft")
    base = evaluated(tmp_path / "base", "base")
    found, page = compared(tmp_path / "out", base, one, two)
    assert set(found["evaluations"]) == {"base-static", "sft (a)-static", "sft (b)-static"}
    assert "sft (a)" in page and "sft (b)" in page
    turns = pq.read_table(tmp_path / "out" / "turns.parquet")["model"].to_pylist()
    assert set(turns) == {"base", "sft (a)", "sft (b)"}
    assert set(compared(tmp_path / "in", one, evaluated(one / "again", "sft"))[0]["evaluations"]) == {
        "sft (x)-static", "sft (x/again)-static",
    }  # fmt: skip


def test_a_model_under_both_protocols_keeps_its_gap_when_it_is_called_after_its_run(tmp_path: Path) -> None:
    runs = [fake_run(tmp_path / name, 9).root / "eval" for name in ("one", "two")]
    folders = [run / f"sft-{protocol}" for run in runs for protocol in ("static", "adaptive")]
    found, _ = compared(tmp_path / "out", *folders)
    assert set(found["gaps"]) == {"sft (one)", "sft (two)"}


def test_what_is_no_evaluation_is_told_where_one_is(tmp_path: Path, capsys: Capture) -> None:
    run, one = fake_run(tmp_path / "run", 3).root, evaluated(tmp_path / "one", "base", 3)
    (run / "summary.json").write_text("{}")
    for command in (("compare", run, one, "--out", tmp_path / "out"), ("inspect-log", "--out", run)):
        code, _, err = call(capsys, *command)
        assert code == 1 and f"name one of {run}/eval/base-adaptive, " in err, err
    compared(tmp_path / "both", one, run / "eval" / "sft-static")
    code, _, err = call(capsys, "compare", one, tmp_path / "both", "--out", tmp_path / "out")
    assert code == 1 and f"{tmp_path}/both: holds no finished evaluation" in err
    code, _, err = call(capsys, "compare", one, one, "--out", tmp_path / "out")
    assert code == 1 and "leave one of the two out" in err


def test_the_images_of_a_run_are_found_from_its_evaluations(tmp_path: Path, capsys: Capture) -> None:
    run = fake_run(tmp_path / "run", 3).root
    folder = run / "eval" / "base-static"
    assert images_of(folder).root == run / "images"
    assert call(capsys, "report", "--out", folder)[0] == 0
    both = write_comparison([folder, run / "eval" / "sft-static"], tmp_path / "out")
    for page in (folder / "report.html", both):
        pictures = carried(page.read_text())["i0"].split("\n")
        assert len(pictures) == 3 and not any(line.startswith("0 0 lost") for line in pictures)
