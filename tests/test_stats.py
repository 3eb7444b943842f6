"""The statistics of a run, as numbers, text, picture and card."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import yaml
from PIL import Image

from finished_run import finished_run
from safer_steer.errors import StorageError
from safer_steer.exports.card import write_card
from safer_steer.exports.stats import PartStats, Stats, Success, stats_of, text_of
from safer_steer.run_folder import RunFolder


def test_what_is_counted(tmp_path: Path) -> None:
    stats = stats_of(finished_run(tmp_path))
    assert stats.parts["rl"] == PartStats(
        dialogues=3, turns={3: 2, 4: 1}, mean_turns=10 / 3, kinds={"benign": 1, "obfuscated": 1, "red_team": 1},
        categories={"fraud": 2, "maths": 1}, strategies={"roleplay": 1}, images=3, perturbed=1,
    )  # fmt: skip
    assert stats.parts["sft"].mean_safety == 9.0 and stats.parts["bench"].range == (5, 10)
    assert "val" not in stats.parts, "an empty split is none"
    assert stats.attacks["roleplay"].rate == 0.5 and stats.attacked == Success(played=8, succeeded=3)
    assert Success(played=0, succeeded=0).rate is None
    assert Stats.from_json(stats.to_json()) == stats


def test_the_text_says_all_of_it(tmp_path: Path) -> None:
    text = text_of(stats_of(finished_run(tmp_path)))
    rows = [line.split() for line in text.splitlines()]
    assert rows[0][4:] == ["benign", "obfuscated", "red_team", "images", "perturbed"]
    assert ["rl", "3", "3–4", "3.33", "1", "1", "1", "3", "1"] in rows
    for line in ("  roleplay                  50.0%  2 of 4", "  all                       37.5%  3 of 8",
                 "kept of the dialogues played: 66.7% (2 of 3)", "left out of Stage I: no_leak 5",
                 "dropped in Stage II: unsafe 1", "dialogues or seeds in training and benchmark both: 0"):  # fmt: skip
        assert line in text.splitlines(), line


def test_the_card_and_the_picture(tmp_path: Path) -> None:
    write_card(finished_run(tmp_path / "run"), tmp_path / "card")
    text = (tmp_path / "card" / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["configs"][0]["data_files"][0] == {"split": "sft", "path": "data/sft-*.parquet"}
    assert "37.5 % of 8" in text and "2 of\n   3 dialogues passed" in text
    image = Image.open(io.BytesIO((tmp_path / "card" / "stats.png").read_bytes()))
    assert image.width > 1000 and len(image.convert("RGB").getcolors(10**6)) > 20


def test_a_run_without_the_filter_has_no_success_rate(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    run.finish("construct", {"attacks": {"by_strategy": {}}, "left_out": {}})
    stats = write_card(run, tmp_path / "card")
    assert stats.attacked.rate is None and "succeeded" not in text_of(stats)
    assert "target model" not in (tmp_path / "card" / "README.md").read_text()


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="'bootstrap' is not finished"):
        stats_of(RunFolder(tmp_path))
