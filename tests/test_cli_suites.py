"""Suites and seeds of released datasets through the command: listing, single-turn marks, bad rows, nothing paid for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import released
from command import Server, call, evaluation, run, serving
from released import cell, put_json, put_parquet
from safer_steer.bench.suites import SUITES
from safer_steer.seeds import LOADERS

Capture = pytest.CaptureFixture[str]


def judged(harmlessness: int, helpfulness: int) -> Server:
    return Server(json.dumps({"rationale": "so", "safety": harmlessness, "helpfulness": helpfulness}))


def summary(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return found


def test_the_command_lists_every_suite_and_loader_with_what_it_needs() -> None:
    code, out, err = run("suites")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines() if line.strip()]
    named = {words[0]: words for words in lines}
    assert set(SUITES) | set(LOADERS) <= set(named)
    assert named["vlguard"][1] == "single" or named["vlguard"][1] == "PATH:"
    for suite in SUITES.values():
        if suite.needs is not None:
            assert f"PATH: {suite.needs}" in out


def test_a_single_turn_suite_passes_at_three_and_says_so(tmp_path: Path, capsys: Capture) -> None:
    path = released.vlguard(tmp_path / "vlguard")
    out = tmp_path / "out"
    with serving(judged(3, 2)) as server:
        code, _, err = call(capsys, *evaluation(server, Path(f"vlguard:{path}"), out))
        assert code == 0, err
        assert len(server.asked("student")) == len(server.asked("judge")) == 3
    found = summary(out)
    assert found["pass_rates"] == {"safety": 1.0, "helpfulness": 0.0}
    assert (found["of"]["safety_pass"], found["of"]["help_pass"]) == (3.0, 3.0)
    assert (found["of"]["suite"], found["skipped_rows"]) == (f"vlguard:{path}", {"rows": 0, "first": []})
    assert {"privacy", "safe_image", "benign"} == set(found["by_category"])
    assert found["benign"]["counts"]["dialogues"] == 1
    body = server.asked("student")[0]["messages"][-1]["content"]
    assert [block["type"] for block in body] == ["image_url", "text"]


def test_a_bad_row_stops_everything_before_anybody_is_asked_unless_it_may_be_skipped(
    tmp_path: Path, capsys: Capture
) -> None:
    path = released.siuo(tmp_path / "siuo")
    rows = json.loads((path / "siuo_gen.json").read_text())
    put_json(path / "siuo_gen.json", [rows[0], {**rows[1], "image": "../../etc/passwd"}, {**rows[1], "question_id": 3}])
    out = tmp_path / "out"
    with serving() as server:
        arguments = evaluation(server, Path(f"siuo:{path}"), out)
        code, _, err = call(capsys, *arguments)
        assert code == 1 and err.count("\n") == 1
        assert err.startswith(f"error: {path}/siuo_gen.json, row 2: field 'image': '../../etc/passwd': lies outside")
        assert not server.bodies and not (out / "summary.json").exists()
        code, printed, err = call(capsys, *arguments, "--skip-bad-rows")
        assert code == 0, err
        assert len(server.asked("student")) == 2
    assert f"siuo:{path}: 1 bad row skipped, first {path}/siuo_gen.json, row 2: field 'image'" in err
    skipped = summary(out)["skipped_rows"]
    assert skipped["rows"] == 1 and "siuo_gen.json, row 2: field 'image'" in skipped["first"][0]
    assert json.loads(printed)["counts"]["dialogues"] == summary(out)["counts"]["dialogues"] == 2


def test_the_recipe_may_name_the_suite_with_its_path_and_the_skipping(tmp_path: Path, capsys: Capture) -> None:
    path = released.cosafe(tmp_path / "cosafe")
    (path / "CoSafe datasets" / "fraud.json").write_text(
        "not JSON\n" + (path / "CoSafe datasets/fraud.json").read_text()
    )
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"eval": {"suite": f"cosafe:{path}", "skip_bad_rows": True}}))
    command = ("eval", "--model", "scripted", "--recipe", recipe, "--out", tmp_path / "out", "--dry-run")
    code, printed, err = call(capsys, *command)
    assert (code, err) == (0, "")
    told = json.loads(printed)
    assert (told["dialogues"], told["answers"], told["skipped rows"]) == (3, 6, 1)
    code, _, err = call(capsys, *command, "--set", "eval.skip_bad_rows=false")
    assert code == 1 and "fraud.json:1: not JSON" in err


def test_a_suite_without_its_path_says_what_the_path_needs(tmp_path: Path, capsys: Capture) -> None:
    code, _, err = call(capsys, "eval", "--model", "scripted", "--suite", "vlsbench", "--out", tmp_path / "out")
    assert code == 1 and err.startswith(
        "error: --suite: 'vlsbench' needs a path: vlsbench:PATH (PATH is a folder with "
    )


def test_seeds_of_several_loaders_in_a_recipe(tmp_path: Path, capsys: Capture) -> None:
    sources = [
        {"loader": "beavertails_v", "path": str(released.beavertails_v(tmp_path / "b")), "split": "train", "limit": 3},
        {"loader": "geometry3k", "path": str(released.geometry3k(tmp_path / "g")), "split": "train"},
        {"loader": "jailbreakv_28k", "path": str(released.jailbreakv(tmp_path / "j"))},
    ]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"construction": {"seeds": sources}}))
    command = ("construct", "--recipe", recipe, "--out", tmp_path / "out", "--dry-run")
    code, printed, err = call(capsys, *command)
    assert (code, err) == (0, "")
    assert json.loads(printed)["construct"]["seeds"] == 6
    put_parquet(tmp_path / "b/data/animal_abuse/train.parquet", [{"question": "q", "image": cell()}])
    code, _, err = call(capsys, *command)
    assert code == 1 and "train.parquet: field 'category': the column is missing (the file has: question, image)" in err


def test_bad_seeds_are_counted_in_the_stage_when_they_may_be_skipped(tmp_path: Path, capsys: Capture) -> None:
    released.put(tmp_path, "a.png")
    good = {"id": "s1", "question": "What is it?", "category": "maths", "image": "a.png", "kind": "benign"}
    path = released.put_jsonl(tmp_path / "seeds.jsonl", [good, {**good, "id": "s2", "image": "gone.png"}])
    sources = json.dumps([{"loader": "builtin", "split": "train", "limit": 4}, {"loader": "jsonl", "path": str(path)}])
    settings = ["--set", f"construction.seeds={sources}", "--set", "construction.success_filter=false"]
    settings += ["--set", "seats.target=scripted"]
    out = tmp_path / "out"
    code, _, err = call(capsys, "construct", "--out", out, *settings)
    assert code == 1 and f"{path}:2: field 'image': 'gone.png': no such image file" in err
    assert not (out / "construct" / "stage.json").exists()
    code, _, err = call(capsys, "construct", "--out", out, *settings, "--skip-bad-rows")
    assert code == 0, err
    assert f"seeds: 1 bad row skipped, first {path}:2: field 'image'" in err
    stage = json.loads((out / "construct" / "stage.json").read_text())
    assert stage["seeds"] == 5 and stage["skipped_rows"]["rows"] == 1
    assert "seeds.jsonl:2: field 'image'" in stage["skipped_rows"]["first"][0]
