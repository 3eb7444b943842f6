"""verl's own datasets read the exported parquet: prompts with images for RL, whole dialogues for SFT."""

from __future__ import annotations

import importlib.util
import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
pytest.importorskip("verl")


class Template:
    """A tokenizer and processor as far as reading data needs one: two tokens a message."""

    image_processor = SimpleNamespace(patch_size=14)

    def apply_chat_template(
        self, messages: list[object], add_generation_prompt: bool = False, **rest: object
    ) -> list[int]:
        return [1, 2] * len(messages) + [3] * add_generation_prompt


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


def test_the_sft_dataset_keeps_turns_and_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from omegaconf import OmegaConf
    from PIL import Image
    from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

    from finished_run import finished_run
    from safer_steer.exports import export

    export(finished_run(tmp_path / "run"), "verl", tmp_path / "out")
    if importlib.util.find_spec("torchvision") is None:  # verl decodes by qwen_vl_utils, which needs it
        decode = "verl.utils.dataset.multiturn_sft_dataset.process_image"
        monkeypatch.setattr(decode, lambda image, **rest: Image.open(io.BytesIO(image["bytes"])))
    path, template = str(tmp_path / "out" / "sft.parquet"), Template()
    data = MultiTurnSFTDataset(path, tokenizer=template, config=OmegaConf.create({}), processor=template)
    assert len(data) == 2
    shown, plain = (data._build_messages(data.dataframe.iloc[number].to_dict()) for number in range(2))
    assert [message["role"] for message in shown] == ["user", "assistant"] * 2
    assert [block["type"] for block in shown[0]["content"]] == ["image", "text"]
    assert shown[0]["content"][0]["image"].size == (32, 25)
    assert shown[1]["content"] == [{"type": "text", "text": "answer 1"}]
    assert [block["type"] for message in plain for block in message["content"]] == ["text"] * 4
