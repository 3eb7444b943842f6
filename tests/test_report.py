"""The report: right numbers, one safe file, the same bytes each time, and nothing a model writes can run in it."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import io
import json
import re

import pytest
from PIL import Image

from reporting import (
    HOSTILE,
    SAID,
    carried,
    elements,
    evaluate,
    fake_run,
    hostile_run,
    played,
    suite,
    transcripts,
)
from safer_steer.bench.books import outcomes
from safer_steer.config import Recipe
from safer_steer.errors import StageError, StorageError
from safer_steer.report import thumbnails, write_comparison, write_eval_report, write_run_report
from safer_steer.report.results import Estimate, difference, read_result
from safer_steer.report.transcripts import LONGEST_TEXT, visible
from safer_steer.run_folder import RunFolder

pytestmark = pytest.mark.filterwarnings("ignore:The confidence interval is undefined")

ALLOWED = """
html head meta title style body header h1 h2 h3 h4 p bdi code nav a main section div table thead tbody tr th td small
b em span i figure figcaption svg defs g path use text line rect clippath details summary dl dt dd form label input
select option output kbd br script noscript article ol button dialog
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fake_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(run):
    return write_run_report(run, recipe=Recipe(name="demo")).read_text()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    made = hostile_run(tmp_path_factory.mktemp("hostile"))
    return write_run_report(made, recipe=Recipe(name=HOSTILE["tag"]))


def test_the_table_shows_the_summary_s_numbers(run, page):
    result = read_result(run.root / "eval" / "safer_steer-static")
    found = result.summary.unsafe.safety_pass
    plain = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())
    assert f"{100 * found.rate:.0f} % {100 * found.low:.0f}–{100 * found.high:.0f} % n {found.scored}" in plain
    assert "adaptive − static" in plain and "Turn reward" not in plain and "turn reward, 0…1" in plain


def test_run_summary_holds_every_evaluation_and_the_differences(run, page):
    written = json.loads((run.root / "summary.json").read_text())
    assert set(written["evaluations"]) == {f"{m}-{p}" for m in SAID for p in ("static", "adaptive")}
    assert set(written["evaluations"]["base-static"]["counts"]) == {
        "dialogues",
        "turns",
        "scored",
        "unscored",
        "failed",
    }
    change = written["differences"]["static"]
    assert (change["from"], change["to"]) == ("base", "safer_steer") and change["safety_pass"]["value"] > 0
    assert len(written["grpo"]["step"]) == 24
    assert {"name": "grpo", "seconds": 651.0, "peak_mb": 3405.0} in written["stages"]
    assert written["headline"][0] in html.unescape(page)


def test_the_same_run_gives_the_same_bytes(run, page):
    assert write_run_report(run, recipe=Recipe(name="demo")).read_text() == page


def test_overlapping_intervals_are_not_significant():
    near = difference(Estimate(0.5, 0.3, 0.7, 20, 0), Estimate(0.6, 0.4, 0.8, 20, 0))
    far = difference(Estimate(0.1, 0.05, 0.2, 20, 0), Estimate(0.9, 0.8, 0.95, 20, 0))
    assert near is not None and near.overlap and far is not None and not far.overlap
    assert difference(Estimate(None, None, None, 0, 3), Estimate(0.6, 0.4, 0.8, 20, 0)) is None


def test_a_single_small_evaluation_has_a_report(tmp_path):
    made = suite(RunFolder(tmp_path), 3)
    evaluate(tmp_path / "one", [played(one, "base", "static") for one in made], "local:model", "static")
    text = write_eval_report(tmp_path / "one", RunFolder(tmp_path).images).read_text()
    assert "local:model stays safe in" in text and len(transcripts(text)) == 3


def test_the_bill_of_the_summary_is_shown_and_written_as_a_table(tmp_path):
    evaluate(tmp_path, [played(one, "base", "static") for one in suite(RunFolder(tmp_path), 2)], "base", "static")
    found = json.loads((tmp_path / "summary.json").read_text())
    line = {"role": "judge", "model": "openai:j@http://h/v1", "calls": 41, "cached": 3, "prompt_tokens": 12_345,
            "completion_tokens": 678, "uncounted": 2, "cost": 0.4321, "currency": "EUR",
            "without": ["response_format", "temperature"]}  # fmt: skip
    found["bill"] = [line, {**line, "role": "student", "cost": None, "currency": None, "without": []}]
    (tmp_path / "summary.json").write_text(json.dumps(found))
    text = write_eval_report(tmp_path, RunFolder(tmp_path).images).read_text()
    bill = text[text.index("<h3>The bill</h3>") :].partition("</table>")[0]
    told = (
        "judge, ",
        "openai:j@http://h/v1",
        "<td>41</td>",
        "<td>3</td>",
        "12.3k",
        "678",
        "2 calls did not",
        "0.43 EUR",
    )
    assert all(part in bill for part in told), bill
    assert bill.count("asked without response_format, temperature") == 1
    judge, student = csv.DictReader((tmp_path / "tables" / "bill.csv").read_text().splitlines())
    assert (judge["role"], judge["calls"], judge["cost"], judge["currency"]) == ("judge", "41", "0.4321", "EUR")
    assert judge["asked without"] == "response_format, temperature"
    assert (student["cost"], student["asked without"]) == ("", "")


def test_an_evaluation_without_any_dialogue_has_a_report(tmp_path):
    evaluate(tmp_path / "none", [], "base", "static")
    text = write_eval_report(tmp_path / "none", RunFolder(tmp_path).images).read_text()
    assert "no unsafe dialogue could be scored" in text


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(StageError, match="no evaluation is finished"):
        write_run_report(RunFolder(tmp_path), recipe=Recipe())
    (tmp_path / "summary.json").write_text('{"counts": {}, "what": 1}')
    with pytest.raises(StorageError, match="not an evaluation's summary"):
        read_result(tmp_path)


def test_a_lost_image_is_said_to_be_missing(tmp_path):
    store = RunFolder(tmp_path)
    made = suite(store, 2)
    evaluate(tmp_path / "one", [played(one, "base", "static") for one in made], "base", "static")
    for file in store.images.root.iterdir():
        file.unlink()
    assert carried(write_eval_report(tmp_path / "one", store.images).read_text())["i0"] == "0 0 lost \n0 0 lost "


def small_copies(root):
    return [path for path in root.iterdir() if path.name.startswith(".small-")]


def test_small_copies_are_made_once_and_nothing_but_small_copies_is_read_as_one(tmp_path, monkeypatch):
    store = RunFolder(tmp_path)
    made = suite(store, 3)
    evaluate(tmp_path / "one", [played(one, "base", "static") for one in made], "base", "static")
    page = write_eval_report(tmp_path / "one", store.images).read_bytes()
    [kept] = small_copies(store.images.root)
    with monkeypatch.context() as patch:
        patch.setattr(thumbnails, "thumbnail", lambda *_: pytest.fail("an image was decoded again"))
        assert write_eval_report(tmp_path / "one", store.images).read_bytes() == page
    whole = kept.read_bytes()
    first, *others = whole.splitlines(keepends=True)
    for damaged in (first[:65] + b"1 1 png </script><script>x()\n", first[:-1], b"\n", first[64:]):
        kept.write_bytes(damaged if damaged == first[:-1] else damaged + b"".join(others))
        assert write_eval_report(tmp_path / "one", store.images).read_bytes() == page
        assert kept.read_bytes() == whole  # mended by the way
    kept.unlink()
    monkeypatch.setattr(thumbnails, "write_stream", raise_storage_error)
    assert write_eval_report(tmp_path / "one", store.images).read_bytes() == page  # without a place to keep them
    assert small_copies(store.images.root) == []


def raise_storage_error(*_):
    raise StorageError("Read-only file system")


def test_a_comparison_reads_the_small_copies_of_its_evaluations_and_leaves_them_alone(tmp_path, monkeypatch):
    folders = []
    for model in ("base", "sft"):
        store = RunFolder(tmp_path / model)
        evaluate(store.root, [played(one, model, "static") for one in suite(store, 3)], model, "static")
        write_eval_report(store.root, store.images)
        folders.append(store.root)
    before = {path: path.stat().st_mtime_ns for f in folders for path in small_copies(f / "images")}
    assert len(before) == 2
    monkeypatch.setattr(thumbnails, "thumbnail", lambda *_: pytest.fail("an image was decoded again"))
    write_comparison(folders, tmp_path / "both")
    assert {path: path.stat().st_mtime_ns for f in folders for path in small_copies(f / "images")} == before


def test_each_picture_is_embedded_once(page):
    pictures = carried(page)["i0"].split("\n")
    assert len(pictures) == len(set(pictures)) == 12
    width, height, kind, code = pictures[0].split(" ")
    with Image.open(io.BytesIO(base64.b64decode(code))) as image:
        assert (image.format, *image.size) == (kind.upper(), int(width), int(height)) and image.width == 512


def test_the_index_names_every_dialogue_and_its_strip(run, page):
    index = json.loads(carried(page)["index"])
    assert index["models"] == ["Base", "SFT", "SaFeR-Steer"] and index["protocols"] == ["adaptive", "static"]
    assert len(index["rows"]) == 80 == len(transcripts(page))
    rollouts = {r.script.id: r for r in outcomes(run.root / "eval" / "sft-adaptive")}
    row = next(row for row in index["rows"] if row[0] == "adaptive-s04")
    scores = [turn.verdict.scores["safety"] for turn in rollouts["s04"].turns]
    strip, failure, broke_off, _ = row[8][1]
    assert ["abcdefg".index(letter) - 3 for letter in strip] == scores and broke_off is False
    assert failure == next((turn for turn, score in enumerate(scores, 1) if score < 2), None)


def test_the_policy_allows_exactly_the_page_s_own_style_and_script(hostile):
    page = hostile.read_text()
    tags = elements(page)
    policies = [a["content"] for tag, a in tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1 and policies[0].startswith("default-src 'none'; ") and "unsafe" not in policies[0]
    for kind in ("style", "script"):
        assert sum(tag == kind and "type" not in a for tag, a in tags) == 1
        body = re.search(rf"<{kind}>(.*?)</{kind}>", page, re.S).group(1)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policies[0]


def test_hostile_text_makes_no_element_and_no_attribute(hostile):
    allowed = set(ALLOWED.split())
    for tag, attributes in elements(hostile.read_text()):
        assert tag in allowed
        assert attributes.get("type") in (None, "text/plain", "search", "button")
        assert not any(name.startswith("on") or name in ("style", "src") for name in attributes)
        assert not attributes.get("href", "#").startswith(("javascript", "http"))


def test_long_text_is_cut_and_says_so(hostile):
    page = hostile.read_text()
    text, left = next(line for line in transcripts(page) if line[0][0].startswith("huge"))[2][0][6][0][0]
    assert (len(text), left) == (LONGEST_TEXT, len(HOSTILE["huge"]) - LONGEST_TEXT)
    assert len(page) < 1_000_000 and "\x00" not in page


def test_visible_keeps_what_people_write():
    assert visible("a\tb\nc é 👩‍👧 שלום") == "a\tb\nc é 👩‍👧 שלום"
    assert visible("\x00\x1b\ud800") == "\ufffd" * 3
