"""STEER-Bench files and the built-in suites, as scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from command import entry, write_suite
from safer_steer.bench.suites import load_suite, suite_print
from safer_steer.dialogue import ScriptKind, Split
from safer_steer.errors import ConfigError, DataError
from safer_steer.image_store import ImageStore

spoken = st.text("abc ?é漢🙂<>&\u202e", min_size=1, max_size=30).filter(str.strip)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(spoken, st.booleans()), min_size=1, max_size=10))
def test_the_users_turns_are_kept_and_the_assistants_dropped(tmp_path: Path, turns: list[tuple[str, bool]]) -> None:
    messages: list[dict[str, object]] = [{"role": "system", "content": "be nice"}]
    for text, blocks in turns:
        content = [{"type": "image"}, {"type": "text", "text": text}] if blocks else f"<image>{text}"
        messages += [{"role": "user", "content": content}, {"role": "assistant", "content": "scripted"}]
    suite = write_suite(tmp_path, entry(messages_fixed=messages))
    (script,) = load_suite(str(suite), ImageStore(tmp_path / "images"))
    assert [turn.text for turn in script.turns] == [text.strip() for text, _ in turns]


def test_a_line_becomes_a_held_out_script_with_its_picture(tmp_path: Path) -> None:
    more = {"source_category": "x", "risk_trajectory": [1, 2]}
    suite = write_suite(tmp_path, entry("one", **more), entry(2, image=None), entry("3", image=["picture.png"] * 2))
    store = ImageStore(tmp_path / "images")
    one, two, three = load_suite(str(suite), store)
    assert (one.id, one.kind, one.category, one.split, one.suite) == (
        "one", ScriptKind.RED_TEAM, "fraud", Split.TEST, "suite",
    )  # fmt: skip
    assert store.read(one.images[0]) == (tmp_path / "picture.png").read_bytes()
    assert (two.id, two.images, len(three.images)) == ("2", (), 2)


def test_a_line_may_say_its_kind(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, entry("a"), entry("b", kind="benign"), entry("c", kind="obfuscated"))
    scripts = load_suite(str(suite), ImageStore(tmp_path / "images"))
    assert [script.kind for script in scripts] == [ScriptKind.RED_TEAM, ScriptKind.BENIGN, ScriptKind.OBFUSCATED]


@pytest.mark.parametrize("wrong", ["harmless", ["benign"], 1])
def test_a_kind_that_is_none_is_an_error(tmp_path: Path, wrong: object) -> None:
    suite = write_suite(tmp_path, entry("a", kind=wrong))
    with pytest.raises(DataError, match=r":1: field 'kind': there is no kind .* \(red_team, obfuscated, benign\)"):
        load_suite(str(suite), ImageStore(tmp_path / "images"))


def test_the_order_of_the_file_stands_and_a_limit_takes_the_first(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, *(entry(f"d{i}") for i in (3, 1, 2)))
    store = ImageStore(tmp_path / "images")
    assert [script.id for script in load_suite(str(suite), store)] == ["d3", "d1", "d2"]
    assert [script.id for script in load_suite(str(suite), store, 2)] == ["d3", "d1"]


def test_blank_lines_windows_line_ends_and_a_byte_order_mark_do_no_harm(tmp_path: Path) -> None:
    suite = write_suite(tmp_path)
    lines = [json.dumps(entry("a")), "", json.dumps(entry("b"))]
    suite.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert [script.id for script in load_suite(str(suite), ImageStore(tmp_path / "images"))] == ["a", "b"]


def test_a_suite_is_known_by_its_contents_or_its_name(tmp_path: Path) -> None:
    suite = write_suite(tmp_path)
    before = suite_print(str(suite))
    assert before == suite_print(str(suite.rename(tmp_path / "moved.jsonl")))
    assert before != suite_print(str(write_suite(tmp_path, entry("other"))))
    assert suite_print("steer-mini") == "steer-mini"
    with pytest.raises(DataError, match="nowhere"):
        suite_print("nowhere.jsonl")


def test_a_name_that_is_nothing_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"steer-mini, steer-mini-val"):
        load_suite("steer-maxi", ImageStore(tmp_path))


def test_the_built_in_suites_share_no_seed_and_no_dialogue(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    held_out, validation = load_suite("steer-mini", store), load_suite("steer-mini-val", store)
    assert {script.split for script in held_out} == {Split.TEST}
    assert {script.split for script in validation} == {Split.VAL}
    assert {script.kind for script in held_out} == set(ScriptKind)
    assert not {script.seed_id for script in held_out} & {script.seed_id for script in validation}
    assert len({script.id for script in held_out}) == len(held_out)
    assert {len(script.turns) for script in held_out} <= set(range(2, 11))
