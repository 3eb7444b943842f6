"""The report: right numbers, one safe file, the same bytes each time, and nothing a model writes can run in it."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import random
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from people import STAMP, ToldAssistant, ToldJudge, answer, scored, script
from safer_steer.bench.evaluate import Evaluation, Fault, summarise
from safer_steer.bench.turns import write_turns
from safer_steer.config import EvalConfig, Recipe
from safer_steer.dialogue import AnswerState, Rollout, Script, ScriptKind, StopReason, Turn, UserTurn
from safer_steer.errors import StageError, StorageError
from safer_steer.report import write_eval_report, write_run_report
from safer_steer.report.page import visible
from safer_steer.report.results import Estimate, difference, read_result
from safer_steer.report.transcripts import LONGEST_TEXT
from safer_steer.seats import ScriptUser
from safer_steer.store import RunFolder, write_json, write_records
from safer_steer.verdict import Unscored, UnscoredReason

pytestmark = pytest.mark.filterwarnings("ignore:The confidence interval is undefined")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CATEGORIES = ("fraud", "malware", "privacy_violation", "drugs", "harassment")
STRATEGIES = ("roleplay", "fiction_writer", "authority_figure")
SAID = {
    "base": "Sure. Here is a general idea of how one might go about that, in broad terms.",
    "sft": "I understand why you ask, but I will not help with that part. Here is what I can do instead.",
    "safer_steer": "I won't help with that. If somebody is at risk, talk to people you trust or to a support line.",
}
HOSTILE = {
    "tag": "<script>document.title='PWNED'</script><img src=x onerror=\"document.title='PWNED'\">",
    "end": "</script></style></details></p><svg onload=\"document.title='PWNED'\"><!-- <![CDATA[ {{ 7*7 }} {% raw %}",
    "huge": "lengthy " * 25_000,
    "unbroken": "W" * 3_000,
    "rtl": "\u202esdrawkcab\u202c \u2067\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd \u2069\u2069\u2069 end",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘!",
    "nul": "before\x00after \x1b[31mred\x07 \ufffe",
    "url": "javascript:document.title='PWNED' ' onmouseover='document.title=1' style='position:fixed;inset:0'",
}
ALLOWED = """
html head meta title style body header h1 h2 h3 h4 p bdi code nav a main section div table thead tbody tr th td small
b em span i figure figcaption svg defs g path use text line rect clippath details summary dl dt dd form label input
select option fieldset legend output kbd br script
"""


def picture(run: RunFolder, number: int):
    image = Image.new("RGB", (640, 480), (40 + number * 17 % 200, 90 + number * 31 % 120, 120))
    ImageDraw.Draw(image).ellipse((120, 80, 420, 380), fill=(240, 220, 160))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return run.images.put(buffer.getvalue(), name=f"picture-{number}")


def suite(run: RunFolder, count: int = 40) -> list[Script]:
    """Red-team, obfuscated and benign scripts of 2 to 10 turns, each with an image."""
    chance, scripts = random.Random(7), []
    for n in range(count):
        kind = (ScriptKind.RED_TEAM, ScriptKind.OBFUSCATED, ScriptKind.BENIGN)[n % 3]
        users = [f"Turn {t} of question {n}: what about this picture, and what follows?" for t in range(1, 3 + n % 9)]
        turns = tuple(UserTurn(text=user) for user in users)
        category = "maths" if kind is ScriptKind.BENIGN else chance.choice(CATEGORIES)
        strategy = chance.choice(STRATEGIES) if kind is ScriptKind.RED_TEAM else None
        ref = picture(run, n % 12)
        scripts.append(
            Script(
                id=f"s{n:02d}", seed_id=f"seed-{n}", kind=kind, category=category, images=(ref,), turns=turns,
                strategy=strategy, suite="steer-mini",
            )
        )  # fmt: skip
    return scripts


def played(of: Script, model: str, protocol: str) -> Rollout:
    """A dialogue whose scores depend on the model: better and better, worse in later turns and when adaptive."""
    chance = random.Random(f"{of.id}{model}{protocol}")
    slip = {"base": 0.24, "sft": 0.1, "safer_steer": 0.02}[model] * (1.4 if protocol == "adaptive" else 1)
    turns = []
    for index, asked in enumerate(of.turns, 1):
        bad = of.is_unsafe and chance.random() < slip * (0.5 + index / 6)
        verdict = scored(
            chance.choice((-3, -2, -1, 0, 1)) if bad else chance.choice((2, 3, 3, 3)),
            chance.choice((1, 2, 3, 3)) if not of.is_unsafe else chance.choice((1, 2, 3)),
            flags=("refusal",) if model != "base" and of.is_unsafe and not bad else (),
        )
        text = "It shows a simple shape; the sum is the number on the label." if not of.is_unsafe else SAID[model]
        moved = protocol == "adaptive" and index > 1
        turns.append(
            Turn(
                index=index, user=f"Then tell me differently ({model}): {asked.text}" if moved else asked.text,
                answer=answer(text), verdict=verdict, attack="bait_and_switch" if moved else None,
                scripted=asked.text if moved else None,
            )
        )  # fmt: skip
    return Rollout(script=of, turns=tuple(turns), stop=StopReason.COMPLETED)


def evaluate(
    folder: Path, rollouts: list[Rollout], model: str, protocol: str, faults: tuple[Rollout, ...] = ()
) -> None:
    evaluation = Evaluation(
        model=ToldAssistant(lambda h: "x"), judge=ToldJudge(lambda h, a: scored()), user=ScriptUser(), scripts=(),
        suite="steer-mini", protocol=protocol, folder=folder, name=model,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    write_records(folder / "rollouts.jsonl", rollouts)
    write_records(folder / "faults.jsonl", [Fault(attempt=1, rollout=rollout) for rollout in faults])
    everything = [*rollouts, *faults]
    write_json(folder / "summary.json", summarise(everything, evaluation, EvalConfig(), 12.5).contract())
    write_turns(folder / "turns.parquet", everything, model=model, protocol=protocol, suite="steer-mini")


def fake_run(root: Path, count: int = 40) -> RunFolder:
    run = RunFolder(root)
    scripts = suite(run, count)
    for model in SAID:
        for protocol in ("static", "adaptive"):
            rollouts = [played(one, model, protocol) for one in scripts]
            evaluate(root / "eval" / f"{model}-{protocol}", rollouts, model, protocol)
            run.finish(f"eval/{model}-{protocol}", {"seconds": 61.0, "peak_mb": 2210})
    steps = [
        {"step": n, "dialogues": 20, "unscored": 0, "dropped": {"no_spread": 1}, "reward": 0.4 + 0.015 * n,
         "unsafe_safety": 5 + 0.12 * n, "benign_usefulness": 6.5 + 0.4 * ((n * 7) % 5 - 2) / 2}
        for n in range(24)
    ]  # fmt: skip
    run.stage("grpo")
    (root / "grpo" / "metrics.jsonl").write_text(
        "".join(json.dumps(step) + "\n" for step in steps) + '{"step": 24, "re'
    )
    run.finish(
        "construct",
        {"scripts": 310, "kinds": {"red_team": 200, "obfuscated": 60, "benign": 50}, "turns": {"all": {"mean": 4.81}},
         "attacks": {"played": 240, "succeeded": 200, "success_rate": 0.833}, "left_out": {"no_leak": 40},
         "seconds": 84.2, "peak_mb": 1900},
    )  # fmt: skip
    run.finish("bootstrap", {"played": 310, "kept": 150, "kept_share": 0.484, "rl": 110, "val": 20, "seconds": 60.0})
    run.finish("sft", {"seconds": 204.0, "peak_mb": 3010})
    run.finish("grpo", {"seconds": 651.0, "peak_mb": 3405})
    return run


def hostile_run(root: Path) -> RunFolder:
    """Every text field that somebody else writes is out to do harm."""
    run = RunFolder(root)
    rollouts = []
    for n, (name, text) in enumerate(HOSTILE.items()):
        of = script(text, text, text, id=f"{name} {text[:90]}", kind=(ScriptKind.RED_TEAM, ScriptKind.BENIGN)[n % 2])
        of = of.model_copy(
            update={"category": text[:120], "strategy": text[:120], "images": (picture(run, n),), "seed_id": text[:50]}
        )
        bad = Unscored(reason=UnscoredReason.UNPARSEABLE, detail=text[:5000], stamp=STAMP)
        verdict = scored(-2, 1).model_copy(update={"rationale": text, "flags": (text[:60],)})
        turns = (
            Turn(index=1, user=text, answer=answer(text), verdict=scored(3, 3)),
            Turn(index=2, user=text, answer=answer(text), verdict=verdict, attack=text[:80], scripted=text + "!"),
            Turn(index=3, user=text, answer=answer(text, AnswerState.FORMAT_FAILURE), verdict=bad),
        )
        rollouts.append(Rollout(script=of, turns=turns, stop=StopReason.COMPLETED))
    broken = rollouts[0].model_copy(
        update={
            "sample": 1,
            "stop": StopReason.ASSISTANT_FAULT,
            "fault": HOSTILE["tag"],
            "turns": rollouts[0].turns[:1],
        }
    )
    for model in ("base", "safer_steer"):
        evaluate(root / "eval" / f"{model}-static", rollouts, model, "static", (broken,))
    return run


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def elements(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Elements()
    parser.feed(page)
    return parser.tags


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
    assert "local:model stays safe in" in text and text.count('<details class="dialogue"') == 3


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


def test_a_lost_image_leaves_an_empty_frame(tmp_path):
    store = RunFolder(tmp_path)
    made = suite(store, 2)
    evaluate(tmp_path / "one", [played(one, "base", "static") for one in made], "base", "static")
    for file in store.images.root.iterdir():
        file.unlink()
    assert "width:80px;height:80px" in write_eval_report(tmp_path / "one", store.images).read_text()


def test_each_picture_is_embedded_once(page):
    assert page.count("data:image/webp;base64,") == 12


def test_the_policy_allows_exactly_the_page_s_own_style_and_script(hostile):
    page = hostile.read_text()
    tags = elements(page)
    policies = [a["content"] for tag, a in tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1 and policies[0].startswith("default-src 'none'; ") and "unsafe" not in policies[0]
    for kind in ("style", "script"):
        assert sum(tag == kind for tag, _ in tags) == 1
        body = re.search(rf"<{kind}>(.*?)</{kind}>", page, re.S).group(1)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policies[0]


def test_hostile_text_makes_no_element_and_no_attribute(hostile):
    allowed = set(ALLOWED.split())
    for tag, attributes in elements(hostile.read_text()):
        assert tag in allowed
        assert not any(name.startswith("on") or name in ("style", "src") for name in attributes)
        assert not attributes.get("href", "#").startswith(("javascript", "http"))


def test_long_text_is_cut_and_says_so(hostile):
    page = hostile.read_text()
    assert f"{len(HOSTILE['huge']) - LONGEST_TEXT} more characters stand in rollouts.jsonl" in page
    assert len(page) < 4_000_000 and "\x00" not in page


def test_visible_keeps_what_people_write():
    assert visible("a\tb\nc é 👩‍👧 שלום") == "a\tb\nc é 👩‍👧 שלום"
    assert visible("\x00\x1b\ud800") == "\ufffd" * 3


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to open the report in")


def browse(page: Path, tmp_path: Path, *more: str, fragment: str = "") -> str:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    quiet = ["--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}"]
    place = page.resolve().as_uri() + fragment
    found = subprocess.run([CHROMIUM, *flags, *quiet, *more, place], capture_output=True, timeout=90, check=False)
    return found.stdout.decode(errors="replace")


@needs_chromium
@pytest.mark.slow
def test_in_a_browser_hostile_text_runs_nothing_and_our_script_does(hostile, tmp_path):
    dom = browse(hostile, tmp_path, "--dump-dom")
    title = html.unescape(re.search(r"<title>(.*?)</title>", dom, re.S).group(1))
    assert title == f"SaFeR-Steer: {HOSTILE['tag']}"
    assert '<output id="shown">9 of 9</output>' in dom
    assert sum(tag == "script" for tag, _ in elements(dom)) == 1
    assert not any(tag == "img" or "onerror" in a or "onload" in a for tag, a in elements(dom))


@needs_chromium
@pytest.mark.slow
def test_in_a_browser_a_deep_link_opens_its_dialogue(run, page, tmp_path):
    dom = browse(run.root / "report.html", tmp_path, "--dump-dom", fragment="#adaptive-s03-t2")
    opened = [
        a["id"]
        for tag, a in elements(dom)
        if tag == "details" and a.get("class", "").startswith("dialogue") and "open" in a
    ]
    assert opened == ["adaptive-s03"]


def driven(page: str, steps: str) -> str:
    """The page with its policy lifted and a script of ours that presses keys and tells in the title what came of it."""
    lifted = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    helpers = """
      const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
      const pick = (id, value) => {
        const field = document.getElementById(id);
        field.value = value;
        field.dispatchEvent(new Event("input", { bubbles: true }));
      };
      const all = [...document.querySelectorAll("details.dialogue")];
      const seen = () => all.filter((entry) => !entry.hidden);
      const told = [];
    """
    return lifted.replace("</body>", f"<script>{helpers}{steps}; document.title = JSON.stringify(told)</script></body>")


@needs_chromium
@pytest.mark.slow
def test_in_a_browser_keys_and_filters_work(page, tmp_path):
    steps = """
      press("j"); press("o"); told.push(all.filter((entry) => entry.open).map((entry) => entry.id));
      press("j"); told.push(all.filter((entry) => entry.open).map((entry) => entry.id));
      pick("protocol", "adaptive"); told.push(seen().length, seen().every((e) => e.dataset.protocol === "adaptive"));
      pick("kind", "benign"); told.push(seen().length);
      pick("kind", ""); pick("failed", "mended");
      told.push(seen().every((e) => e.dataset.failed.includes("0") && !e.dataset.failed.includes("2")));
      pick("failed", ""); pick("protocol", ""); pick("q", "obfuscated seed-7,");
      told.push(seen().map((entry) => entry.id));
      document.querySelector("input[name=column]").click();
      told.push([...document.querySelectorAll("#list [data-column='0']")].every((part) => part.hidden));
    """
    copy = tmp_path / "driven.html"
    copy.write_text(driven(page, steps))
    title = re.search(r"<title>(.*?)</title>", browse(copy, tmp_path, "--dump-dom"), re.S).group(1)
    assert json.loads(html.unescape(title)) == [
        ["static-s00"], ["static-s01"], 40, True, 13, True, ["static-s07", "adaptive-s07"], True,
    ]  # fmt: skip
