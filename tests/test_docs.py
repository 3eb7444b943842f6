"""What README.md, docs and the pages of recipes show works: Python runs, recipes load, commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main
import yaml

from safer_steer.cli import app
from safer_steer.config import Recipe, recipe_from

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "src" / "safer_steer" / "recipes"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(RECIPES.rglob("README.md"))]
RUN_ELSEWHERE = {"data.md", "endpoints.md", "seeds.md"}
"""Pages whose own subject's tests run their Python."""
LOADS_NETWORKS = {"embedded_student.md", "offline_judge.md"}


def blocks(page: Path, *languages: str) -> list[str]:
    found = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [text for language, text in found if language in languages]


def python_pages() -> list[object]:
    chosen = [page for page in PAGES if page.name not in RUN_ELSEWHERE and blocks(page, "python", "py")]
    slow = pytest.mark.slow
    return [pytest.param(page, id=page.name, marks=[slow] if page.name in LOADS_NETWORKS else []) for page in chosen]


@pytest.mark.parametrize("page", python_pages())
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    known: dict[str, object] = {}
    for block in blocks(page, "python", "py"):
        exec(compile(block, page.name, "exec"), known)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_recipes_of_a_page_load(page: Path) -> None:
    sections = set(Recipe.model_fields)
    for block in blocks(page, "yaml"):
        values = yaml.safe_load(block)
        if set(values) & sections:
            assert isinstance(recipe_from(values), Recipe)


def shown_commands(page: Path) -> list[list[str]]:
    """Every `safer-steer …` in a code block or between backticks, as words without the placeholder `...`."""
    text = page.read_text().replace("\\\n", " ")
    lines = re.findall(r"^\$? ?(safer-steer [^#\n]*)", text, flags=re.MULTILINE) + re.findall(
        r"`(safer-steer [^`]+)`", text
    )
    return [[word for word in shlex.split(line) if word != "..."] for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_exist_with_their_options(page: Path) -> None:
    group = typer.main.get_command(app)
    for words in shown_commands(page):
        command, rest = group, words[1:]
        if rest[0].startswith("-"):
            continue
        while rest and hasattr(command, "commands"):  # a group: the next word names one of its commands
            assert rest[0] in command.commands, words
            command, rest = command.commands[rest[0]], rest[1:]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= options, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_overrides_of_a_page_are_keys(page: Path) -> None:
    for key, value in re.findall(r"--set[ =]([\w.]+)=([^\s`#]+)", page.read_text()):
        if "…" in value:
            fields: object = Recipe().model_dump()
            for part in key.split("."):
                assert isinstance(fields, dict) and part in fields, key
                fields = fields[part]
        else:
            recipe_from({}, [f"{key}={value}"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
