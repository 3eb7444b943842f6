"""The memory estimate, against models that were counted and measured; and the recipes that rest on it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from safer_steer.config import Dtype, GrpoConfig, LoraConfig, SftConfig, load_recipe
from safer_steer.dialogue import AnswerFormat
from safer_steer.errors import WeightsError
from safer_steer.reward import Credit, Normalise
from safer_steer.train.memory import (
    GIB,
    QWEN2_5_VL_3B,
    QWEN2_5_VL_7B,
    activation_bytes,
    announcement,
    estimate,
    lora_parameters,
    shape_of,
)
from safer_steer.train.policy import Policy
from tiny_families import family, family_folder

RECIPES = Path(__file__).parents[1] / "src" / "safer_steer" / "recipes"
SHAPES = {"qwen2_5_vl_3b": QWEN2_5_VL_3B, "qwen2_5_vl_7b": QWEN2_5_VL_7B}


@pytest.mark.parametrize("name", ["qwen2_5_vl", "idefics3", "text_only"])
def test_a_folder_is_counted_without_being_loaded(tmp_path: Path, name: str) -> None:
    folder = family_folder(name, tmp_path)
    shape, (model, processor) = shape_of(folder), family(name)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    policy = Policy(model, processor, None)
    assert shape.language == sum(parameter.numel() for parameter in policy.trainable.values())
    adapted = Policy(family(name)[0], processor, LoraConfig(rank=4))
    assert lora_parameters(shape, LoraConfig(rank=4)) == sum(p.numel() for p in adapted.trainable.values())
    assert announcement(folder, SftConfig()).startswith("memory, estimated: 0.")
    for file in folder.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(WeightsError, match="size cannot be read"):
        shape_of(folder)
    assert "not estimated" in announcement(folder, SftConfig())


def test_activations_are_about_what_a_model_keeps_for_the_way_back(tmp_path: Path) -> None:
    shape, (model, _) = shape_of(family_folder("text_only", tmp_path)), family("text_only")
    kept: dict[int, int] = {}
    weights = {parameter.data_ptr() for parameter in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = 512
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model.model(input_ids=torch.randint(5, 250, (1, tokens)), use_cache=False).last_hidden_state
    assert output.requires_grad
    expected = tokens * activation_bytes(shape, 4, checkpointing=False)
    assert 0.6 < sum(kept.values()) / expected < 1.6


@given(st.booleans(), st.booleans(), st.sampled_from(Dtype), st.integers(1, 64))
def test_what_takes_more_is_estimated_higher(lora: bool, checkpointing: bool, dtype: Dtype, rows: int) -> None:
    settings = {"lora": LoraConfig() if lora else None, "dtype": dtype, "gradient_checkpointing": checkpointing}
    config = GrpoConfig(**settings)
    here = estimate(QWEN2_5_VL_3B, config, open_dialogues=rows)
    assert here.peak < estimate(QWEN2_5_VL_7B, config, open_dialogues=rows).peak
    assert here.cache < estimate(QWEN2_5_VL_3B, config, open_dialogues=rows + 1).cache or rows >= 40
    assert here.activations < estimate(QWEN2_5_VL_3B, config.model_copy(update={"micro_batch": 3})).activations
    assert estimate(QWEN2_5_VL_3B, config.model_copy(update={"frozen": ()})).optimiser > here.optimiser
    assert (here.reference == 0) is lora
    assert estimate(QWEN2_5_VL_3B, SftConfig(**settings)).reference == 0


def test_full_training_of_3b_by_hand() -> None:
    config = GrpoConfig(lora=None, dtype=Dtype.BFLOAT16, gradient_checkpointing=True, micro_batch=2, max_length=1000)
    here = estimate(QWEN2_5_VL_3B, config, open_dialogues=10)
    language, rest = 3_085_938_688, 668_700_000
    assert (here.weights, here.reference) == (4 * language + 2 * rest, 2 * (language + rest))
    assert (here.optimiser, here.gradients) == (8 * language, 4 * language)
    assert here.cache == 10 * 1000 * 2 * 36 * 256 * 2
    layer = 2 * (5 * 2048 + 2 * 2048 + 2 * 256 + 4 * 11008) + 8 * 2048
    assert here.activations == 2000 * (36 * 2048 * 2 + layer)
    assert here.peak == here.weights + here.reference + here.optimiser + max(
        here.cache, here.gradients + here.activations + here.logits
    )


@pytest.mark.parametrize("name", SHAPES)
def test_a_recipe_for_one_gpu_is_the_papers_and_fits(name: str) -> None:
    folder = RECIPES / name
    recipe = load_recipe(folder / "recipe.yaml")
    assert recipe.name == name and recipe.answer_format is AnswerFormat.TAGGED
    sft, grpo = recipe.sft, recipe.grpo
    assert (sft.learning_rate, sft.batch_size, sft.epochs, sft.weight_decay) == (1e-5, 16, 2, 0.01)
    assert (grpo.samples, grpo.beta, grpo.alpha, grpo.max_length, sft.max_length) == (5, 0.1, 0.3, 10240, 32768)
    assert (grpo.credit, grpo.normalise, grpo.divide_by_std) == (Credit.SUM, Normalise.PAPER, False)
    readme = (folder / "README.md").read_text()
    for stage in (estimate(SHAPES[name], sft), estimate(SHAPES[name], grpo, open_dialogues=recipe.open_dialogues)):
        assert stage.peak < 0.9 * 80e9
        assert f"{stage.peak / GIB:.1f} GiB" in readme
    lines = (folder / "recipe.yaml").read_text().splitlines()
    values = [line for line in lines if re.match(r"\s*[a-z_]+: \S", line) and not line.startswith("name:")]
    bare = [line for line in values if not re.search(r"# \[(paper|code|ours)\]", line)]
    assert all(re.match(r"\s+(rank|alpha): \d+$", line) for line in bare), bare
