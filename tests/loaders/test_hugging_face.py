"""`datasets` reads the parquet files, `trl` takes the rows for what they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from finished_run import finished_run
from safer_steer.exports import export

pytestmark = pytest.mark.slow
datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def test_the_card_names_the_splits_and_images_are_images(tmp_path: Path) -> None:
    from PIL import Image

    export(finished_run(tmp_path / "run"), "hub", tmp_path / "out")
    whole = datasets.load_dataset(str(tmp_path / "out"))
    assert {name: len(split) for name, split in whole.items()} == {"sft": 2, "rl": 3, "bench": 2}
    feature = whole["sft"].features["images"]
    assert isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.Image)
    image = whole["rl"][1]["images"][1]
    assert isinstance(image, Image.Image) and image.size == (32, 27)
    assert whole["sft"][0]["messages"][1] == {"role": "assistant", "content": "answer 1"}
    assert whole["bench"][0]["safety"] == [] and whole["sft"][0]["safety"] == [10.0, 8.0]


def test_trl_sees_conversations_with_images(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    from trl.data_utils import is_conversational, prepare_multimodal_messages

    export(finished_run(tmp_path / "run"), "trl", tmp_path / "out")
    sft = datasets.load_dataset("parquet", data_files=str(tmp_path / "out" / "sft.parquet"))["train"]
    rl = datasets.load_dataset("parquet", data_files=str(tmp_path / "out" / "rl.parquet"))["train"]
    assert trl is not None and is_conversational(sft[0]) and is_conversational(rl[0])
    for rows, column in ((sft, "messages"), (rl, "prompt")):
        for row in rows:
            prepared = prepare_multimodal_messages(row[column], images=row["images"])
            shown = [block for message in prepared for block in message["content"] if block["type"] == "image"]
            assert [block["image"] for block in shown] == row["images"], "every image block has its image"
            words = [block["text"] for message in prepared for block in message["content"] if block["type"] == "text"]
            assert all(words) and len(words) == len(prepared)
