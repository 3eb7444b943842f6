"""The report in a browser, its policy in force: hostile text runs nothing, and keys, filters and links work."""

from __future__ import annotations

import contextlib
import json

import pytest

from browser import CHROMIUM, Browser
from reporting import HOSTILE, carried, fake_run, hostile_run
from safer_steer.config import Recipe
from safer_steer.report import write_run_report
from safer_steer.report.transcripts import LONGEST_TEXT, visible


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


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to open the report in")


READY = "document.getElementById('reader').querySelector('.step')"
SHOWN = "document.getElementById('shown').textContent"
ANCHOR = "document.querySelector('.bar .link')?.textContent"


@pytest.fixture(scope="module")
def browser():
    with Browser() as made:
        yield made


@needs_chromium
@pytest.mark.slow
def test_in_a_browser_hostile_text_runs_nothing(hostile, browser):
    """Every hostile dialogue is opened with the policy in force: no script runs, nothing is asked for, text is text."""
    browser.messages.clear()
    browser.open(hostile)
    assert browser.evaluate("document.title") == f"SaFeR-Steer: {HOSTILE['tag']}"
    assert browser.evaluate(SHOWN) == "9 of 9"
    seen = set()
    for _ in range(9):
        browser.press("j")
        browser.wait(f"{READY} && !{json.dumps(sorted(seen))}.includes({ANCHOR})")
        seen.add(browser.evaluate(ANCHOR))
        asked = browser.evaluate("document.querySelector('.reader .user .text').firstChild.data")
        assert asked in {visible(text[:LONGEST_TEXT]) for text in HOSTILE.values()}
        inside = "document.getElementById('reader').querySelectorAll"
        assert (
            browser.evaluate(f"{inside}('script, style, svg, iframe, object, [onerror], [onload], [onclick]').length")
            == 0
        )
        pictures = browser.evaluate(f"[...{inside}('img')].map((i) => i.src.slice(0, 23))")
        assert pictures == ["data:image/webp;base64,"]
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert len(seen) == 9 and browser.messages == []


@needs_chromium
@pytest.mark.slow
def test_in_a_browser_markup_that_gets_in_is_stopped_by_the_policy(hostile, browser):
    """The second wall, should the first one ever fall: the policy refuses inline handlers and strings as markup."""
    browser.open(hostile)
    with pytest.raises(AssertionError, match="TrustedHTML"):
        browser.evaluate("document.body.innerHTML = '<img src=x onerror=\"document.title=1\">'; 1")
    with pytest.raises(AssertionError, match="TrustedScript"):
        browser.evaluate("document.body.setAttribute('onclick', 'document.title=1')")
    browser.evaluate("{ const i = new Image(); i.src = 'file:///nothing.png'; document.body.append(i); }")
    script = "{ const s = document.createElement('script'); s.append('document.title=1'); document.body.append(s); }"
    with contextlib.suppress(AssertionError):
        browser.evaluate(script)
    assert browser.evaluate("document.title") != "1"
    browser.evaluate("new Promise((done) => setTimeout(done, 50))")
    assert any("Content Security Policy" in message and "img-src" in message for message in browser.messages)


@needs_chromium
@pytest.mark.slow
def test_in_a_browser_a_deep_link_opens_its_dialogue_at_its_turn(run, page, browser):
    browser.open(run.root / "report.html", "#adaptive-s03-t2")
    browser.wait(READY)
    assert browser.evaluate(ANCHOR) == "#adaptive-s03"
    assert browser.evaluate("document.querySelector('.step.target').dataset.turn") == "2"
    assert "attack: bait and switch" in browser.evaluate("document.querySelector('.step.target').textContent")
    browser.evaluate("location.hash = '#no-such-dialogue'; 1")
    assert browser.evaluate(ANCHOR) == "#adaptive-s03"


@needs_chromium
@pytest.mark.slow
def test_in_a_browser_keys_and_filters_work(run, page, browser):
    browser.open(run.root / "report.html")

    def pick(field, value):
        browser.evaluate(
            f"{{ const f = document.getElementById('{field}'); f.value = [...f.options].find((o) => o.text === "
            f"{json.dumps(value)}).value; f.dispatchEvent(new Event('input', {{ bubbles: true }})); }}"
        )

    browser.press("j")
    browser.wait(f"{ANCHOR} === '#static-s00'")
    browser.press("j")
    browser.wait(f"{ANCHOR} === '#static-s01'")
    browser.press("k")
    browser.wait(f"{ANCHOR} === '#static-s00'")
    assert browser.evaluate("location.hash") == "#static-s00"
    pick("f-protocol", "adaptive")
    assert browser.evaluate(SHOWN) == "40 of 80"
    pick("f-kind", "benign")
    assert browser.evaluate(SHOWN) == "13 of 80"
    pick("f-kind", "all kinds")
    pick("f-failed", "Base failed, SaFeR-Steer did not")
    index = json.loads(carried(page)["index"])
    mended = [r for r in index["rows"] if r[0].startswith("adaptive") and r[8][0][1] is not None and r[8][2][1] is None]
    assert mended and browser.evaluate(SHOWN) == f"{len(mended)} of 80"
    browser.evaluate("document.getElementById('clear').click()")
    browser.wait(f"{SHOWN} === '80 of 80'")
    browser.press("/")
    browser.type("obfuscated seed-7")
    browser.wait(f"{SHOWN} === '2 of 80'")
    browser.press("Escape")
    browser.press("?")
    assert browser.evaluate("document.getElementById('keys').open") is True


@needs_chromium
@pytest.mark.slow
def test_in_a_browser_the_first_failure_is_marked_once_per_model(run, page, browser):
    index = json.loads(carried(page)["index"])
    row = next(row for row in index["rows"] if all(model[1] is not None for model in row[8][:2]))
    browser.open(run.root / "report.html", f"#{row[0]}")
    browser.wait(READY)
    marked = (
        "[...document.querySelectorAll('.failure')].map((n) => [+n.dataset.column, +n.closest('.step').dataset.turn])"
    )
    expected = sorted([place, model[1]] for place, model in enumerate(row[8]) if model[1] is not None)
    assert sorted(browser.evaluate(marked)) == expected


@needs_chromium
@pytest.mark.slow
def test_in_a_browser_a_phone_shows_one_thing_at_a_time(run, page):
    with Browser(390, 844, dark=True) as phone:
        phone.open(run.root / "report.html", "#static-s04")
        phone.wait(READY)
        assert phone.evaluate("document.documentElement.scrollWidth") == 390
        assert phone.evaluate("document.getElementById('reader').getBoundingClientRect().width") == 390
        phone.evaluate("document.querySelector('.back').click()")
        assert phone.evaluate("getComputedStyle(document.getElementById('reader')).display") == "none"
        assert phone.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 22, 21)"
