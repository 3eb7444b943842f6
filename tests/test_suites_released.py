"""Every suite of a released dataset, read from a small release of our own: what becomes of it, turn by turn."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from released import RELEASES, cell, put, put_json, put_jsonl, put_parquet, steer
from safer_steer.bench.suites import SUITES, Suite, listing, read_suite, suite_print
from safer_steer.dialogue import Script, ScriptKind, Split
from safer_steer.errors import ConfigError, DataError
from safer_steer.image_store import ImageStore

SINGLE_TURN = {
    "beavertails-v", "mm-safetybench", "mm-safetybench-sd", "mm-safetybench-sd-typo", "mm-safetybench-typo", "spa-vl",
    "vlguard", "vlsbench", "siuo", "mssbench", "mssbench-chat", "mssbench-embodied", "jailbreakv-28k",
    "jailbreakv-mini",
}  # fmt: skip


def read(tmp_path: Path, name: str, **more: bool) -> Suite:
    path = RELEASES[name](tmp_path / name)
    return read_suite(f"{name}:{path}", ImageStore(tmp_path / "images"), **more)


def texts(script: Script) -> list[str]:
    return [turn.text for turn in script.turns]


def test_every_suite_that_reads_something_has_a_release_here() -> None:
    assert {name for name, suite in SUITES.items() if suite.needs is not None} == set(RELEASES)
    assert {name for name, suite in SUITES.items() if suite.single_turn} == SINGLE_TURN


@pytest.mark.parametrize("name", RELEASES)
def test_every_suite_is_held_out_whole_and_the_same_when_read_again(tmp_path: Path, name: str) -> None:
    suite = read(tmp_path, name)
    again = read_suite(f"{name}:{tmp_path / name}", ImageStore(tmp_path / "images"))
    assert suite == again and suite.skips.rows == 0
    assert len({script.id for script in suite.scripts}) == len(suite.scripts) > 0
    assert {script.split for script in suite.scripts} == {Split.TEST}
    if suite.single_turn:
        assert {len(script.turns) for script in suite.scripts} == {1}
        assert all(script.images for script in suite.scripts)
        assert suite.pass_marks(2.8, 2.5) == (3.0, 3.0)
    else:
        assert suite.pass_marks(2.8, 2.5) == (2.8, 2.5)
    if not name.startswith("steer"):
        assert {script.suite for script in suite.scripts} == {name}
        assert all(script.id.startswith(name.split("-")[0]) for script in suite.scripts)


def test_the_five_subsets_of_steer_bench_stand_apart_and_together(tmp_path: Path) -> None:
    whole = read(tmp_path, "steer-bench").scripts
    names = ["steer-beaver", "steer-mmsafe", "steer-vls", "steer-spa", "steer-dys"]
    assert [script.suite for script in whole] == [name for name in names for _ in range(2)]
    assert [script.id for script in whole][:3] == ["steer-beaver-1", "steer-beaver-2", "steer-mmsafe-1"]
    for name in names:
        assert read(tmp_path, name).scripts == tuple(script for script in whole if script.suite == name)
    one = tmp_path / "steer-bench" / "steer_dys.jsonl"
    assert [s.id for s in read_suite(f"steer-dys:{one}", ImageStore(tmp_path)).scripts] == [
        "steer-dys-1",
        "steer-dys-2",
    ]
    assert [s.id for s in read_suite(str(one), ImageStore(tmp_path)).scripts] == ["1", "2"]


def test_the_whole_of_steer_bench_from_one_file_is_that_file_once(tmp_path: Path) -> None:
    read(tmp_path, "steer-bench")
    dys = tmp_path / "steer-bench" / "steer_dys.jsonl"
    found = read_suite(f"steer-bench:{dys}", ImageStore(tmp_path)).scripts
    assert [(s.id, s.suite) for s in found] == [("steer-dys-1", "steer-dys"), ("steer-dys-2", "steer-dys")]
    own = dys.rename(dys.with_name("joined.jsonl"))
    found = read_suite(f"steer-bench:{own}", ImageStore(tmp_path)).scripts
    assert [(s.id, s.suite) for s in found] == [("1", "joined"), ("2", "joined")]


def test_safemt_drops_the_scripted_answers(tmp_path: Path) -> None:
    one, two, four = read(tmp_path, "safemt").scripts
    assert (one.id, two.id, four.id) == ("safemt-1_turn-7", "safemt-2_turn-7", "safemt-4_turn-7")
    assert texts(one) == ["question 1?"] and texts(four) == [f"question {i}?" for i in (1, 2, 3, 4)]
    assert (two.category, two.question, two.kind) == ("fraud", "the goal", ScriptKind.RED_TEAM)
    assert one.images == four.images and one.images[0].name == "images/fraud/fraud_1.png"


def test_mtmcs_puts_the_risk_last_in_type_a_and_first_in_type_b(tmp_path: Path) -> None:
    dialogues = {script.id: script for script in read(tmp_path, "mtmcs-bench").scripts}
    assert {name.removeprefix("mtmcs-bench-"): texts(script) for name, script in dialogues.items()} == {
        "type_a-3-unsafe": ["first", "second", "harmful"],
        "type_a-3-safe": ["first", "second", "harmless"],
        "type_b-3-unsafe": ["harmful", "second", "third"],
        "type_b-3-safe": ["harmless", "second", "third"],
    }
    unsafe, safe = dialogues["mtmcs-bench-type_a-3-unsafe"], dialogues["mtmcs-bench-type_a-3-safe"]
    assert (unsafe.kind, unsafe.question, len(unsafe.images)) == (ScriptKind.RED_TEAM, "the intent", 1)
    assert (safe.kind, safe.question, safe.is_unsafe) == (ScriptKind.BENIGN, None, False)
    words = read(tmp_path, "mtmcs-bench-text").scripts
    assert texts(words[0]) == ["first", "second in words", "harmful"] and words[0].images == ()


def test_cosafe_is_read_line_by_line_and_has_no_images(tmp_path: Path) -> None:
    scripts = read(tmp_path, "cosafe").scripts
    assert [(s.id, s.category, s.images) for s in scripts] == [
        ("cosafe-fraud-1", "fraud", ()), ("cosafe-fraud-2", "fraud", ()), ("cosafe-theft-1", "theft", ()),
    ]  # fmt: skip
    assert texts(scripts[0]) == ["what is it?", "how is it made?"]


def test_safedialbench_in_both_languages(tmp_path: Path) -> None:
    english, chinese = read(tmp_path, "safedialbench-en").scripts, read(tmp_path, "safedialbench-zh").scripts
    assert [(s.id, s.category, s.strategy) for s in english] == [
        ("safedialbench-en-privacy-1", "privacy", "role play"),
        ("safedialbench-en-fairness-1", "fairness", "role play"),
    ]
    assert texts(english[0]) == ["question 1?", "question 2?", "question 3?"]
    assert texts(chinese[0]) == ["什么?", "什么?"]


def test_beavertails_v_is_its_evaluation_split(tmp_path: Path) -> None:
    scripts = read(tmp_path, "beavertails-v").scripts
    assert [(texts(s), s.category) for s in scripts] == [
        (["question 5?"], "animal_abuse"), (["question 15?"], "sexual_crimes"),
    ]  # fmt: skip


def test_mm_safetybench_pairs_the_words_with_the_kind_of_image(tmp_path: Path) -> None:
    scripts = {script.id: script for script in read(tmp_path, "mm-safetybench").scripts}
    assert len(scripts) == 2 * 2 * 3
    drawn, written = scripts["mm-safetybench-06-Fraud-1-SD"], scripts["mm-safetybench-06-Fraud-1-TYPO"]
    assert (texts(drawn), drawn.category, drawn.strategy) == (["drawn 1?"], "Fraud", "SD")
    assert texts(written) == texts(scripts["mm-safetybench-06-Fraud-1-SD_TYPO"]) == ["written 1?"]
    assert drawn.question == written.question == "plain 1?"
    assert drawn.images[0].name == "SD/1.jpg" and drawn.images != written.images
    for name, kind in (("-sd", "SD"), ("-sd-typo", "SD_TYPO"), ("-typo", "TYPO")):
        assert {s.strategy for s in read(tmp_path, f"mm-safetybench{name}").scripts} == {kind}


def test_spa_vl_is_the_harm_part_of_its_test_split(tmp_path: Path) -> None:
    scripts = read(tmp_path, "spa-vl").scripts
    assert [(texts(s), s.category) for s in scripts] == [
        (["question 4?"], "unclassified"), (["question 5?"], "unclassified"),
    ]  # fmt: skip


def test_vlguard_asks_both_ways_about_a_safe_image(tmp_path: Path) -> None:
    scripts = read(tmp_path, "vlguard").scripts
    assert [(s.id, texts(s)[0], s.kind.value, s.category) for s in scripts] == [
        ("vlguard-test-good-s-safe", "what is it?", "benign", "benign"),
        ("vlguard-test-good-s-unsafe", "insult it", "red_team", "safe_image"),
        ("vlguard-test-bad-u-unsafe", "whose is it?", "red_team", "privacy"),
    ]
    assert scripts[0].turns[0].reference == "a thing" and scripts[1].turns[0].reference is None


def test_vlsbench_finds_images_by_path_or_by_name(tmp_path: Path) -> None:
    assert [(s.id, s.images[0].name) for s in read(tmp_path, "vlsbench").scripts] == [
        ("vlsbench-4", "imgs/4.png"), ("vlsbench-5", "5.png"),
    ]  # fmt: skip


def test_mssbench_shows_the_same_words_before_both_images(tmp_path: Path) -> None:
    scripts = read(tmp_path, "mssbench").scripts
    assert [(s.id, texts(s)[0], s.is_unsafe) for s in scripts] == [
        ("mssbench-chat-1-0-safe", "how to run faster?", False),
        ("mssbench-chat-1-1-safe", "how far?", False),
        ("mssbench-chat-1-0-unsafe", "how to run faster?", True),
        ("mssbench-chat-1-1-unsafe", "how far?", True),
        ("mssbench-embodied-1-0-safe", "put it down", False),
        ("mssbench-embodied-1-0-unsafe", "drop it", True),
    ]
    assert scripts[0].images != scripts[2].images
    assert len(read(tmp_path, "mssbench-chat").scripts) + len(read(tmp_path, "mssbench-embodied").scripts) == 6


def test_jailbreakv_tells_what_is_said_from_what_is_meant(tmp_path: Path) -> None:
    scripts = read(tmp_path, "jailbreakv-28k").scripts
    assert [(s.id, s.strategy, s.question) for s in scripts] == [
        ("jailbreakv-0", "Template", "goal one"), ("jailbreakv-1", "figstep", "goal one"),
        ("jailbreakv-2", "SD", "goal one"), ("jailbreakv-3", "SD_typo", "goal two"),
    ]  # fmt: skip
    assert texts(scripts[0]) == ["long story,\nin two lines"]
    assert scripts[2].images == scripts[3].images
    assert [s.id for s in read(tmp_path, "jailbreakv-mini").scripts] == ["jailbreakv-0", "jailbreakv-3"]


# --- names, paths, fingerprints ---------------------------------------------------------------------------------


def test_what_is_wrong_with_a_name_or_a_path_is_said(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images")
    for name, said in (
        ("vlsbench", r"'vlsbench' needs a path: vlsbench:PATH \(PATH is a folder with data.json"),
        ("steer-mini:/x", r"'steer-mini' is built in and takes no path"),
        (str(tmp_path), r"is a folder \(say of which suite: NAME:PATH\)"),
        ("vlsbenhc:/data", r"there is no suite or file 'vlsbenhc:/data' \(choose from steer-mini, "),
    ):
        with pytest.raises(ConfigError, match=said):
            read_suite(name, store)
        with pytest.raises(ConfigError, match=said):
            suite_print(name)
    with pytest.raises(DataError, match=r"gone: No such file or directory \(it needs data.json"):
        read_suite(f"vlsbench:{tmp_path / 'gone'}", store)
    for name, suite in SUITES.items():
        if suite.needs is not None:
            (tmp_path / "empty").mkdir(exist_ok=True)
            with pytest.raises(DataError, match=r"empty: holds no .*\(it needs "):
                read_suite(f"{name}:{tmp_path / 'empty'}", store)
            with pytest.raises(DataError, match=r"empty: holds no .*\(it needs "):
                suite_print(f"{name}:{tmp_path / 'empty'}")


def test_a_suite_of_a_folder_is_known_by_the_contents_of_its_files(tmp_path: Path) -> None:
    path = RELEASES["safemt"](tmp_path / "one")
    before = suite_print(f"safemt:{path}")
    assert before == suite_print(f"safemt:{RELEASES['safemt'](tmp_path / 'two')}")
    put_json(path / "Data/2_turn.json", [])
    assert before != suite_print(f"safemt:{path}")
    mm = RELEASES["mm-safetybench"](tmp_path / "mm")
    assert suite_print(f"mm-safetybench-sd:{mm}") != suite_print(f"mm-safetybench-typo:{mm}")


def test_the_listing_names_every_suite_with_what_it_needs() -> None:
    told = {name: (turns, needs) for name, turns, _, needs in listing()}
    assert set(told) == set(SUITES) and all(needs for _, needs in told.values())
    assert told["steer-mini"] == ("multi", "–") and told["siuo"] == ("single", "siuo_gen.json and images/")


def test_a_limit_stops_the_reading_there(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    path = put_jsonl(tmp_path / "x.jsonl", [steer("1"), steer("2"), "not JSON"])
    assert len(read_suite(str(path), ImageStore(tmp_path / "i"), 2).scripts) == 2
    with pytest.raises(DataError, match=r"x\.jsonl:3: not JSON"):
        read_suite(str(path), ImageStore(tmp_path / "i"), 3)


# --- rows that are wrong ----------------------------------------------------------------------------------------


def wrong_rows(folder: Path) -> dict[str, str]:
    """For every suite, its release with one row made wrong, and what is said of it."""
    for name, write in RELEASES.items():
        write(folder / name)
    said = {}

    def spoil(name: str, file: str, change: object, what: str) -> None:
        path = folder / name / file
        rows = json.loads(path.read_text())
        (rows[0] if isinstance(rows, list) else rows["0"]).update(change)
        path.write_text(json.dumps(rows))
        said[name] = what

    def spoil_lines(name: str, file: str, line: object, what: str) -> None:
        path = folder / name / file
        path.write_text(json.dumps(line) + "\n" + path.read_text())
        said[name] = what

    user = [{"role": "user", "content": "x"}]
    spoil("safemt", "Data/2_turn.json", {"dialogue": []}, "2_turn.json, row 1: field 'dialogue': 0 user turns")
    spoil(
        "vlsbench", "data.json", {"image_path": "imgs/9.png"}, "row 1: field 'image_path': 'imgs/9.png': no such image"
    )
    spoil("vlguard", "test.json", {"safe": "maybe"}, "row 1: field 'safe': expected true or false, got 'maybe'")
    spoil("siuo", "siuo_gen.json", {"question": " "}, "row 1: field 'question': expected a non-empty string")
    file = "processed_questions/06-Fraud.json"
    for name, key in (("mm-safetybench", "Question"), ("mm-safetybench-sd", "Rephrased Question(SD)")):
        spoil(name, file, {key: None}, f"06-Fraud.json, row 0: field '{key}': expected a non-empty string, got None")
    for name in ("mm-safetybench-sd-typo", "mm-safetybench-typo"):
        spoil(name, file, {"Rephrased Question": 3}, "row 0: field 'Rephrased Question': expected a non-empty string")
    spoil_lines("cosafe", "CoSafe datasets/fraud.json", {"role": "user"}, "fraud.json:1: field 'messages': is missing")
    for language in ("en", "zh"):
        line = {"id": 5, "task": "t", "method": "m", "history": [{"bot": "x"}]}
        what = f"datasets_{language}.jsonl:1: field 'history[0].user': is missing"
        spoil_lines(f"safedialbench-{language}", f"datasets_{language}.jsonl", line, what)
    for name, stem in (
        ("steer-bench", "steer_spa"), ("steer-beaver", "steer_beavertails"), ("steer-mmsafe", "steer_mmsafety"),
        ("steer-vls", "steer_vlsbench"), ("steer-spa", "steer_spa"), ("steer-dys", "steer_dys"),
    ):  # fmt: skip
        line = {"question_id": 9, "messages_fixed": user, "category": "c", "mood": 1}
        spoil_lines(name, f"{stem}.jsonl", line, f"{stem}.jsonl:1: field 'mood': is not a STEER-Bench field")
    for part in ("mssbench", "mssbench-chat"):
        path = folder / part / "combined.json"
        whole = json.loads(path.read_text())
        whole["chat"].insert(0, {**whole["chat"][0], "queries": []})
        path.write_text(json.dumps(whole))
        said[part] = "combined.json, row chat 1: field 'queries': expected a list of strings, got []"
    path = folder / "mssbench-embodied" / "combined.json"
    whole = json.loads(path.read_text())
    whole["embodied"].insert(0, {**whole["embodied"][0], "unsafe": "../../safemt/Data/images/fraud/fraud_1.png"})
    path.write_text(json.dumps(whole))
    said["mssbench-embodied"] = (
        "row embodied 1: field 'unsafe': '../../safemt/Data/images/fraud/fraud_1.png': lies outside"
    )
    for name, file in (("jailbreakv-28k", "JailBreakV_28K.csv"), ("jailbreakv-mini", "mini_JailBreakV_28K.csv")):
        path = folder / name / file
        path.write_text(path.read_text() + "7,too,few\n")
        said[name] = "has not the 9 cells of the header"
    images = ({"bytes": b"", "path": "x"}, "the image is empty"), ({"bytes": b"GIF89a", "path": "x"}, "not a readable")
    for name, file in (("beavertails-v", "data/animal_abuse/evaluation.parquet"), ("spa-vl", "test/harm-0.parquet")):
        for number, (image, what) in enumerate(images):
            put_parquet(
                folder / name / file.replace("e.", f"e{number}."),
                [
                    {"question": "q", "image": image, "category": "c"},
                    {"question": "r", "image": cell(9), "category": "c"},
                ],
            )
            said[name] = f"row 1: field 'image': 'x': {what}"
    dialogue = {"r1": "a", "r2": "", "r3": "c", "safe_r3": "x", "unsafe_r3": "y"}
    row = {
        "id": 8,
        "image": cell(),
        "unsafe_intent": "i",
        "multimodal_dialogue": dialogue,
        "unimodal_dialogue": dialogue,
    }
    for name, modality in (("mtmcs-bench", "multimodal"), ("mtmcs-bench-text", "unimodal")):
        put_parquet(folder / name / "data/type_a-1.parquet", [row])
        said[name] = f"type_a-1.parquet, row 1: field '{modality}_dialogue.r2': expected a non-empty string, got ''"
    return said


def test_a_wrong_row_of_any_suite_stops_it_or_is_skipped_and_counted(tmp_path: Path) -> None:
    said = wrong_rows(tmp_path)
    assert set(said) == set(RELEASES)
    for name, what in said.items():
        store = ImageStore(tmp_path / "images")
        with pytest.raises(DataError) as caught:
            read_suite(f"{name}:{tmp_path / name}", store)
        if name not in ("beavertails-v", "spa-vl"):
            assert what in str(caught.value), name
        suite = read_suite(f"{name}:{tmp_path / name}", store, skip_bad_rows=True)
        assert suite.skips.rows >= 1 and suite.scripts, name
        assert any(what in problem for problem in suite.skips.first), (name, suite.skips.first)


def test_a_repeated_id_is_an_error_and_skipping_keeps_the_first(tmp_path: Path) -> None:
    path = RELEASES["siuo"](tmp_path / "siuo")
    rows = json.loads((path / "siuo_gen.json").read_text())
    put_json(path / "siuo_gen.json", [*rows, {**rows[0], "question": "another?"}])
    store = ImageStore(tmp_path / "images")
    message = "siuo_gen.json, row 3: field 'question_id': 'siuo-1' stands twice: it is already taken by row 1"
    with pytest.raises(DataError) as caught:
        read_suite(f"siuo:{path}", store)
    assert message in str(caught.value)
    suite = read_suite(f"siuo:{path}", store, skip_bad_rows=True)
    assert [s.turns[0].text for s in suite.scripts] == ["which brush?", "which brush?"]
    assert (suite.skips.rows, len(suite.skips.first)) == (1, 1) and message in suite.skips.first[0]


def test_when_every_row_is_wrong_skipping_is_no_way_out(tmp_path: Path) -> None:
    for rows, told in ((30, "30 bad rows were"), (1, "1 bad row was")):
        path = put_jsonl(tmp_path / "x.jsonl", ["not JSON"] * rows)
        with pytest.raises(DataError, match=rf"holds no dialogue \({told} skipped, first .*x.jsonl:1: not JSON"):
            read_suite(str(path), ImageStore(tmp_path / "i"), skip_bad_rows=True)


def test_a_file_that_lacks_a_column_is_wrong_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    put_parquet(folder / "evaluation.parquet", [{"question": "q", "picture": cell()}])
    for skip in (False, True):
        with pytest.raises(DataError) as caught:
            read_suite(f"beavertails-v:{folder}", ImageStore(tmp_path / "i"), skip_bad_rows=skip)
        assert str(caught.value).endswith(
            "evaluation.parquet: field 'image': the column is missing (the file has: question, picture)"
        )


def test_the_order_of_files_is_the_same_on_every_machine(tmp_path: Path) -> None:
    names = [f"{number}_turn.json" for number in (1, 2, 4)]
    random.Random(0).shuffle(names)
    whole = RELEASES["safemt"](tmp_path / "a")
    rows = {name: (whole / "Data" / name).read_text() for name in names}
    put(tmp_path / "b", "Data/images/fraud/fraud_1.png")
    for name in reversed(names):
        (tmp_path / "b" / "Data" / name).write_text(rows[name])
    store = ImageStore(tmp_path / "i")
    assert read_suite(f"safemt:{whole}", store).scripts == read_suite(f"safemt:{tmp_path / 'b'}", store).scripts
