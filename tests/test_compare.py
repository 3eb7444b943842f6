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
from safer_steer.config import EvalConfig
from safer_steer.report import write_comparison
from safer_steer.run_folder import RunFolder
from safer_steer.verdict import Stamp

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


STRICT = Stamp(judge="strict", prompt="p1", version="1")
MILD = Stamp(judge="offline-judge", prompt="p1", version="1")


def test_what_two_judges_say_is_not_compared_and_the_page_says_so(tmp_path: Path) -> None:
    folders = [evaluated(tmp_path / "a", "base", judge=STRICT), evaluated(tmp_path / "b", "sft", judge=MILD)]
    found, page = compared(tmp_path / "out", *folders)
    assert found["comparisons"] == [] and found["differences"] == {} and found["log_rank"] == {"static": []}
    first, *others = found["headline"]
    assert first.startswith("The judges differ (strict, offline-judge)")
    assert [sentence.partition(":")[0] for sentence in others] == ["By strict", "By offline-judge"]
    for claim in ("McNemar", "Log-rank", "log-rank", "Compared", "Every score", "under one judge", "It is a small"):
        assert claim not in page, claim
    assert "offline-judge is a small offline judge" in page and "judged by strict" in page
    rows = (tmp_path / "out" / "tables" / "results.csv").read_text().splitlines()
    assert [line.split(",")[:4] for line in rows[1:]] == [
        ["static", "Base", "steer-mini", "strict"], ["static", "SFT", "steer-mini", "offline-judge"],
    ]  # fmt: skip


def test_of_two_judges_each_has_its_own_comparison(tmp_path: Path) -> None:
    later = STRICT.model_copy(update={"version": "2"})
    folders = [
        evaluated(tmp_path / f"{model}{stamp.version}", model, judge=stamp)
        for model in ("base", "sft")
        for stamp in (STRICT, later)
    ]
    found, page = compared(tmp_path / "out", *folders)
    assert [(pair["from"], pair["to"]) for pair in found["comparisons"]] == [
        ("base (base1)", "sft (sft1)"), ("base (base2)", "sft (sft2)"),
    ]  # fmt: skip
    assert [test["models"] for test in found["log_rank"]["static"]] == [
        [pair["from"], pair["to"]] for pair in found["comparisons"]
    ]
    assert "By strict, version 2: Against static users" in page and "Compared on the same dialogues" in page


def test_two_suites_are_both_named_and_get_no_test(tmp_path: Path) -> None:
    one = evaluated(tmp_path / "a", "base")
    two = tmp_path / "b"
    other = [script.model_copy(update={"id": f"other-{script.id}"}) for script in suite(RunFolder(two), 12)]
    strict = EvalConfig(safety_pass=3.0)
    evaluate(two, [played(s, "sft", "static") for s in other], "sft", "static", suite="other", marks=strict)
    found, page = compared(tmp_path / "out", one, two)
    (pair,) = found["comparisons"]
    assert "safety_pass" not in pair, "other pass marks"
    assert pair["safety"]["paired"] is False and found["log_rank"] == {"static": []}
    assert "Suites steer-mini , other ·" in page and "Compared Change" in page and "taken as independent" in page
    assert "≥ 2.8 (helpfulness ≥ 2.5) for Base ; ≥ 3.0 (helpfulness ≥ 2.5) for SFT" in page
    assert "their pass marks differ" in found["headline"][0]
    assert "same dialogues" not in page and "og-rank" not in page
    evaluate(two, [played(s, "sft", "static") for s in other], "sft", "static", suite="other")
    found, _ = compared(tmp_path / "out", one, two)
    (sentence,) = found["headline"]
    assert "not asked the same dialogues" in sentence and "significant" not in sentence
