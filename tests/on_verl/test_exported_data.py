"""verl's own datasets read the exported parquet: prompts with images for RL, whole dialogues for SFT."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
pytest.importorskip("verl")


def test_the_rl_dataset_puts_each_image_in_its_place(tmp_path: Path) -> None:
    from omegaconf import OmegaConf
    from PIL import Image
    from verl.utils.dataset.rl_dataset import RLHFDataset

    from finished_run import finished_run
    from safer_steer.exports import export

    export(finished_run(tmp_path / "run"), "verl", tmp_path / "out")
    config = OmegaConf.create({"filter_overlong_prompts": False, "cache_dir": str(tmp_path / "cache")})
    data = RLHFDataset(str(tmp_path / "out" / "rl.parquet"), tokenizer=object(), config=config, processor=object())
    assert len(data) == 3
    sizes = []
    for number in range(3):
        (message,) = data[number]["raw_prompt"]
        kinds = [block["type"] for block in message["content"]]
        assert kinds == ["image"] * (len(kinds) - 1) + ["text"]
        pictures = [block["image"] for block in message["content"] if block["type"] == "image"]
        assert all(isinstance(picture, Image.Image) for picture in pictures)
        sizes.append([picture.height for picture in pictures])
    assert sizes == [[26], [25, 27], [27]]
    assert data[2]["extra_info"]["rest"] == ["<image>r3 asks 2", "r3 asks 3"]
    assert data[0]["data_source"] == "steer-rl" and data[0]["reward_model"]["style"] == "model"


def test_the_sft_dataset_keeps_turns_and_images(tmp_path: Path) -> None:
    import pandas
    from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

    from finished_run import finished_run
    from safer_steer.exports import export

    export(finished_run(tmp_path / "run"), "verl", tmp_path / "out")
    frame = pandas.read_parquet(tmp_path / "out" / "sft.parquet")
    reader = MultiTurnSFTDataset.__new__(MultiTurnSFTDataset)
    reader.messages_key, reader.image_key, reader.video_key = "messages", "images", "videos"
    messages = reader._build_messages(frame.iloc[0].to_dict())
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    assert [block["type"] for block in messages[0]["content"]] == ["image", "text"]
