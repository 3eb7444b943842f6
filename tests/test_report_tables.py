"""Tables: the paper's, and a run's as CSV and LaTeX; evaluations compared by the command."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from command import call, run
from reporting import HOSTILE, evaluate, played, suite
from safer_steer.bench.books import outcomes
from safer_steer.bench.comparison import compare, outcome
from safer_steer.report.paper import paper_results, paper_tables, select, suites_of
from safer_steer.report.tables import Table, latex, to_csv, to_latex, to_text, write_tables
from safer_steer.run_folder import RunFolder

Capture = pytest.CaptureFixture[str]
pytestmark = pytest.mark.filterwarnings("ignore:The confidence interval is undefined")


def test_the_paper_s_headline_figures_are_there() -> None:
    averages = {
        (r.protocol, r.model[-2:], r.method): (r.safety, r.helpfulness)
        for r in paper_results()
        if r.suite == "average" and r.table in (2, 3)
    }
    assert averages["multi-turn", "3B", "Base"] == (12.55, 27.13)
    assert averages["multi-turn", "7B", "SaFeR-Steer"] == (64.89, 72.35)
    assert averages["single-turn", "3B", "SaFeR-Steer"] == (81.84, 70.77)
    assert len(paper_results()) == 270 and {r.table for r in paper_results()} == {2, 3, 8, 9}


@pytest.mark.parametrize("number", [2, 3])
def test_the_paper_s_averages_recompute_from_its_suites(number: int) -> None:
    for model, method in {(r.model, r.method) for r in select(table=number)}:
        mine = {r.suite: r for r in select(table=number) if (r.model, r.method) == (model, method)}
        printed = mine.pop("average")
        assert sum(r.safety for r in mine.values()) / len(mine) == pytest.approx(printed.safety, abs=0.011)
        assert sum(r.helpfulness for r in mine.values()) / len(mine) == pytest.approx(printed.helpfulness, abs=0.011)


def test_suites_are_recognised_however_they_are_spelt() -> None:
    found = suites_of(["steer-beaver", "mm-safetybench", "BeaverTails_V", "steer-mini"])
    assert found == {
        "steer-beaver": "STEER-Beaver",
        "mm-safetybench": "MM-SafetyBench",
        "BeaverTails_V": "BeaverTails-V",
    }


def test_a_paper_table_has_a_row_a_method() -> None:
    (table,) = paper_tables(select(table=8))
    assert [row[0] for row in table.rows] == [
        "SaFeR-Steer", "-TCSR", "-Feedback Dynamics", "-Synthetic Bootstrapping",
    ]  # fmt: skip
    assert len(table.columns) == 13 and table.columns[-2:] == ("average safety", "average helpfulness")


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
cells = st.one_of(texts, st.integers(-99, 99), st.none(), st.floats(-9, 9))


@given(st.lists(st.tuples(cells, cells, cells), max_size=6))
def test_csv_reads_back(rows: list[tuple]) -> None:
    table = Table("t", "T", ("a", "b", "c"), tuple(rows))
    read = list(csv.reader(io.StringIO(to_csv(table), newline="")))
    assert read[0] == ["a", "b", "c"] and len(read) == len(rows) + 1
    for line, row in zip(read[1:], rows, strict=True):
        for field, cell in zip(line, row, strict=True):
            text = "" if cell is None else str(cell).replace("\r\n", "\n").replace("\r", "\n")
            assert field in (text, f"'{text}")
            assert not (isinstance(cell, str) and field.startswith(("=", "+", "-", "@")))


@given(texts)
def test_no_text_is_a_latex_command(text: str) -> None:
    bare = latex(text)
    for known in (r"\textbackslash{}", r"\textasciitilde{}", r"\textasciicircum{}", r"\textless{}", r"\textgreater{}",
                  r"\ldots{}", r"$\geq$", r"$\leq$", "$-$", *(f"\\{c}" for c in "{}&%$#_")):  # fmt: skip
        bare = bare.replace(known, "")
    assert not set(bare) & set("\\{}&%$#_~^") and "\n" not in bare


def test_latex_aligns_numbers_right_and_says_what_is_missing() -> None:
    text = to_latex(Table("a b", "50 % of x_y", ("model", "rate"), (("m&m", 0.25), ("n", None))))
    assert r"\begin{tabular}{lr}" in text and r"m\&m & 0.25 \\" in text and r"n & – \\" in text
    assert r"\caption{50 \% of x\_y}" in text and r"\label{tab:a-b}" in text


def test_a_terminal_s_table_is_aligned() -> None:
    assert to_text(Table("t", "T", ("model", "rate"), (("base", 0.5), ("x", None)))).splitlines() == [
        "T", "model  rate", "-----  ----", "base   0.5", "x      –",
    ]  # fmt: skip


def test_empty_tables_are_not_written(tmp_path: Path) -> None:
    assert write_tables(tmp_path, [Table("t", "T", ("a",), ())]) == []
    assert [path.name for path in write_tables(tmp_path, [Table("t", "T", ("a",), ((1,),))])] == ["t.csv", "t.tex"]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("two")
    made = suite(RunFolder(root), 24)
    for model in ("base", "sft"):
        evaluate(root / model, [played(one, model, "static") for one in made], model, "static")
        (root / model / "images").symlink_to(root / "images", target_is_directory=True)
    return root / "base", root / "sft"


def test_compare_puts_evaluations_beside_one_another(two: tuple[Path, Path], tmp_path: Path) -> None:
    code, _, err = run("compare", *two, "--out", tmp_path)
    assert code == 0, err
    written = json.loads((tmp_path / "summary.json").read_text())
    (pair,) = written["comparisons"]
    assert (pair["from"], pair["to"], pair["safety_pass"]["dialogues"]) == ("base", "sft", 16)
    limits = {"safety_pass": 2.8, "help_pass": 2.5}
    a, b = ([outcome(rollout, **limits) for rollout in outcomes(folder)] for folder in two)
    means = [written["evaluations"][f"{model}-static"]["restricted_mean"] for model in ("base", "sft")]
    assert means[0]["horizon"] == means[1]["horizon"]
    expected = compare(a, b, means[0]["horizon"])["survival"]
    assert (pair["survival"]["value"], pair["survival"]["p"]) == (expected.difference, expected.p)
    assert expected.difference == pytest.approx(means[1]["mean"] - means[0]["mean"])
    assert [test["models"] for test in written["log_rank"]["static"]] == [["Base", "SFT"]]
    turns = pq.read_table(tmp_path / "turns.parquet")
    assert set(turns["model"].to_pylist()) == {"base", "sft"}
    assert turns.num_rows == 2 * sum(len(rollout.turns) for rollout in outcomes(two[0]))
    with (tmp_path / "tables" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = written["evaluations"]["base-static"]["unsafe"]["safety_pass"]
    assert [row["model"] for row in rows] == ["Base", "SFT"]
    assert float(rows[0]["safety_pass"]) == found["rate"] and int(rows[0]["safety_pass scored"]) == found["scored"]
    assert "Compared on the same dialogues" in (tmp_path / "report.html").read_text()


def test_compare_says_what_is_wrong(two: tuple[Path, Path], tmp_path: Path, capsys: Capture) -> None:
    for arguments, said in (
        ((two[0], "--out", tmp_path), "nothing to compare"),
        ((two[0], two[0], "--out", tmp_path), "leave one of the two out"),
        ((two[0], tmp_path / "none", "--out", tmp_path), "no such folder"),
        ((*two, "--out", two[0]), "choose another --out"),
    ):
        code, _, err = call(capsys, "compare", *arguments)
        assert code == 1 and said in err and "Traceback" not in err


def test_the_paper_command_prints_its_tables(capsys: Capture) -> None:
    code, out, _ = call(capsys, "paper", "--table", "3", "--size", "7B", "--format", "csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert (rows[0]["method"], rows[0]["average safety"], rows[-1]["average safety"]) == ("Base", "24.66", "64.89")
    assert "24.66" in call(capsys, "paper", "--table", "3", "--size", "7B")[1]
    assert call(capsys, "paper", "--table", "5")[0] == 1


def test_hostile_names_stay_text_in_every_table(tmp_path: Path) -> None:
    table = Table("t", HOSTILE["tag"], ("name",), tuple((text,) for text in HOSTILE.values() if len(text) < 5000))
    assert "\x00" not in to_latex(table) and r"\input" not in to_latex(table)
    assert len(list(csv.reader(io.StringIO(to_csv(table), newline="")))) == len(table.rows) + 1


def test_a_run_on_the_paper_s_suites_is_shown_beside_it(tmp_path: Path) -> None:
    store = RunFolder(tmp_path)
    made = [one.model_copy(update={"suite": "steer-spa"}) for one in suite(store, 12)]
    evaluate(tmp_path / "one", [played(one, "sft", "static") for one in made], "sft", "static")
    from safer_steer.report import write_eval_report

    page = write_eval_report(tmp_path / "one", store.images).read_text()
    assert "Beside the paper" in page and "STEER-SPA safety" in page
    with (tmp_path / "one" / "tables" / "beside_paper_3.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert (rows[0]["model"], rows[0]["method"], rows[0]["STEER-SPA scored"]) == ("this run", "SFT", "12")
    assert len(rows) == 19 and next(r for r in rows if r["method"] == "TIS")["STEER-SPA scored"] == ""
