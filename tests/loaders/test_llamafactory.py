"""LLaMA-Factory's own loader aligns the dialogues: prompt, answer and images of each."""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from finished_run import finished_run
from safer_steer.exports import export

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
os.environ.setdefault("DISABLE_VERSION_CHECK", "1")
try:
    import torchaudio  # noqa: F401
except (ImportError, OSError):  # it has no build for CPUs, and is imported for dialogues with sound, which ours are not
    sys.modules["torchaudio"] = ModuleType("torchaudio")
    sys.modules["torchaudio"].__spec__ = ModuleSpec("torchaudio", None)
pytest.importorskip("llamafactory")


def test_its_loader_reads_dialogues_and_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    from llamafactory.data.loader import _load_single_dataset
    from llamafactory.data.parser import get_dataset_list
    from llamafactory.hparams import DataArguments, ModelArguments
    from transformers import Seq2SeqTrainingArguments

    out = tmp_path / "out"
    export(finished_run(tmp_path / "run"), "llamafactory", out)
    data = DataArguments(dataset="steer_sft", dataset_dir=str(out), media_dir=str(out), template="qwen2_vl")
    model = ModelArguments(model_name_or_path="none", cache_dir=str(tmp_path / "cache"))
    training = Seq2SeqTrainingArguments(output_dir=str(tmp_path / "train"), report_to="none", use_cpu=True)
    (attributes,) = get_dataset_list(["steer_sft"], str(out))
    rows = list(_load_single_dataset(attributes, model, data, training))
    assert [message["content"] for message in rows[0]["_prompt"]] == [
        "<image>s1 asks 1 ‹image>", "answer 1", "s1 asks 2",
    ]  # fmt: skip
    assert rows[0]["_response"] == [{"role": "assistant", "content": "answer 2"}]
    assert [Path(path).is_file() for path in rows[0]["_images"]] == [True] and not rows[1]["_images"]
