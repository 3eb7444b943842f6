"""Options of the training engines: transformers' Trainer, what is frozen, bf16, gradient checkpointing."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch

from safer_steer.actors.local import DialogueTokenizer, LocalModel
from safer_steer.config import Dtype, GrpoConfig, LoraConfig, Part, SftConfig, recipe_from
from safer_steer.errors import ConfigError
from safer_steer.progress import Silent
from safer_steer.run_folder import RunFolder
from safer_steer.store import read_records
from safer_steer.train.batch import tokens_of
from safer_steer.train.export import save_merged
from safer_steer.train.loss import token_logprobs
from safer_steer.train.metrics import GrpoStep
from safer_steer.train.policy import Policy
from safer_steer.train.sft import Example
from safer_steer.train.sft_trainer import FOLLOWS, SAVED, arguments, last_step
from tiny_training import LORA, Killed, likes_letters, model_folder, run_grpo, sft, tiny_recipe, tiny_scripts, tutor
from tiny_vlm import tiny_processor, tiny_student

BOTH = (Part.VISION, Part.PROJECTOR)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"))


class Dies(Silent):
    """Pulls the plug after so many steps."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def advance(self, n: int = 1, **facts: object) -> None:
        self._left -= n
        if self._left == 0:
            raise Killed


@pytest.mark.filterwarnings("ignore")  # the Trainer's
@pytest.mark.parametrize("lora", [LORA, None])
def test_the_trainer_learns_what_our_loop_learns_and_resumes(
    tmp_path: Path, start: Path, lora: dict[str, int] | None
) -> None:
    ours = sft(tmp_path / "loop", start, lora=lora)
    theirs = sft(tmp_path / "trainer", start, lora=lora, engine="trainer")
    with pytest.raises(Killed):
        sft(tmp_path / "cut", start, Dies(5), lora=lora, engine="trainer")
    again = sft(tmp_path / "cut", start, lora=lora, engine="trainer")
    for lines in (theirs, again):
        assert {line.seconds for line in lines} == {None}
        assert [(line.step, line.tokens) for line in lines] == [(line.step, line.tokens) for line in ours]
        for name in ("loss", "learning_rate", "grad_norm"):
            assert [getattr(line, name) for line in lines] == pytest.approx(
                [getattr(line, name) for line in ours], rel=1e-4
            )
    LocalModel.load(tmp_path / "trainer" / "sft" / "model")


@pytest.mark.filterwarnings("ignore")  # the Trainer's
def test_a_checkpoint_that_was_being_saved_is_passed_over(tmp_path: Path, start: Path) -> None:
    whole = sft(tmp_path / "whole", start, engine="trainer")
    with pytest.raises(Killed):
        sft(tmp_path / "cut", start, Dies(5), engine="trainer")
    folder = tmp_path / "cut" / "sft" / "trainer"
    assert last_step(folder) == 4 and last_step(tmp_path / "nowhere") == 0
    (folder / "checkpoint-4" / SAVED).unlink()
    (folder / "checkpoint-4" / "rng_state.pth").write_bytes(b"half")
    (folder / "checkpoint-99").mkdir()
    assert last_step(folder) == 2
    again = sft(tmp_path / "cut", start, engine="trainer")
    assert [line.loss for line in again] == pytest.approx([line.loss for line in whole], rel=1e-4)


def test_the_trainer_is_told_by_name_and_says_what_it_does_not_know(tmp_path: Path, start: Path) -> None:
    with pytest.raises(ConfigError, match="engine: trainer"):
        recipe_from({"sft": {"trainer": {"report_to": ["wandb"]}}})
    with pytest.raises(ConfigError, match="TrainingArguments takes"):
        sft(tmp_path / "a", start, engine="trainer", trainer={"no_such_setting": 1})
    with pytest.raises(ConfigError, match=r"sft\.trainer: follows from the recipe: logging_steps, output_dir"):
        sft(tmp_path / "c", start, engine="trainer", trainer={"output_dir": "x", "report_to": [], "logging_steps": 5})
    with pytest.raises(ConfigError, match="multiple of micro_batch"):
        sft(tmp_path / "b", start, engine="trainer", micro_batch=3)


def test_what_the_recipe_leaves_open_is_the_trainers(tmp_path: Path) -> None:
    told = {
        "report_to": ["none"], "disable_tqdm": False, "dataloader_pin_memory": False, "save_total_limit": 5,
        "ddp_find_unused_parameters": True, "bf16": True, "dataloader_num_workers": 1, "run_name": "mine",
    }  # fmt: skip
    made = arguments(SftConfig(engine="trainer", batch_size=4, micro_batch=2, trainer=told), tmp_path, 10, 0, cpu=True)
    assert {name: getattr(made, name) for name in told} == {**told, "report_to": []}
    known = {field.name for field in fields(made)}
    assert not {"deepspeed", "fsdp", "fsdp_config", "accelerator_config", "push_to_hub"} & FOLLOWS
    assert FOLLOWS - known <= {"adafactor", "group_by_length", "warmup_ratio"}  # older versions have them


@pytest.mark.parametrize(
    "name",
    [
        "learning_rate", "weight_decay", "optim", "warmup_steps", "lr_scheduler_type", "num_train_epochs", "max_steps",
        "gradient_accumulation_steps", "logging_strategy", "save_strategy", "save_steps", "seed", "max_grad_norm",
        "per_device_train_batch_size", "save_only_model", "average_tokens_across_devices",
    ],
)  # fmt: skip
def test_what_follows_from_the_recipe_is_not_the_trainers_to_say(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"follows from the recipe: {name}"):
        arguments(SftConfig(engine="trainer", trainer={name: 1}), tmp_path, 10, 0, cpu=True)


def batch(policy: Policy) -> object:
    ids = (20, 21, 22, 30, 31, 32, 2)
    return tokens_of(
        [Example(ids, tuple(place >= 3 for place in range(len(ids))), ())],
        DialogueTokenizer.of(policy.processor), torch.device("cpu"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("lora", "frozen", "learns"),
    [
        (LoraConfig(rank=4), BOTH, set()),
        (LoraConfig(rank=4), (Part.VISION,), {"projector"}),
        (LoraConfig(rank=4), (), {"projector", "vision_tower"}),
        (None, BOTH, {"language_model"}),
        (None, (Part.PROJECTOR,), {"language_model", "vision_tower"}),
    ],
)
def test_parts_learn_or_stay(
    tmp_path: Path, lora: LoraConfig | None, frozen: tuple[Part, ...], learns: set[str]
) -> None:
    policy = Policy(tiny_student(), tiny_processor(), lora, frozen=frozen)
    own = {name: parameter for name, parameter in policy.trainable.items() if "lora_" not in name}
    assert {name.removeprefix("base_model.model.").partition(".")[0] for name in own} == learns
    assert (len(own) < len(policy.trainable)) is (lora is not None)
    with policy.reference() as model:
        before = token_logprobs(model, batch(policy))
    with torch.no_grad():
        for parameter in policy.trainable.values():
            parameter.add_(0.1)
    now = {name: parameter.clone() for name, parameter in policy.trainable.items()}
    with policy.reference() as model:
        assert torch.equal(before, token_logprobs(model, batch(policy)))
    assert all(torch.equal(now[name], parameter) for name, parameter in policy.trainable.items())
    save_merged(policy, tmp_path / "model")
    saved = LocalModel.load(tmp_path / "model").model.state_dict()
    for name, parameter in own.items():
        assert torch.equal(saved[name.removeprefix("base_model.model.")], parameter)


def test_checkpointing_gradients_changes_memory_and_nothing_else(start: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        policy = Policy.load(start, GrpoConfig(lora=None, gradient_checkpointing=checkpointing))
        calls = []
        layer = policy.model.language_model.model.layers[1].self_attn
        layer.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        token_logprobs(policy.model, batch(policy)).sum().backward()
        gradients.append({name: parameter.grad for name, parameter in policy.trainable.items()})
        assert len(calls) == 1 + checkpointing
    for name, gradient in gradients[0].items():
        assert (gradient is None) == (gradients[1][name] is None)
        assert gradient is None or torch.allclose(gradient, gradients[1][name], atol=1e-6)


@pytest.mark.parametrize("lora", [LORA, None])
def test_bf16_keeps_what_learns_in_fp32_and_runs_through(
    tmp_path: Path, start: Path, lora: dict[str, int] | None
) -> None:
    policy = Policy.load(start, GrpoConfig(lora=None if lora is None else LoraConfig(**lora), dtype=Dtype.BFLOAT16))
    assert {parameter.dtype for parameter in policy.trainable.values()} == {torch.float32}
    frozen = [p for p in policy.model.parameters() if not p.requires_grad]
    assert {parameter.dtype for parameter in frozen} == {torch.bfloat16}
    run = RunFolder(tmp_path)
    recipe = tiny_recipe(
        grpo={"dtype": "bfloat16", "lora": lora, "steps": 1, "gradient_checkpointing": True, "learning_rate": 1e-3}
    )
    run_grpo(recipe, run, start, scripts=tiny_scripts(run), tutor=tutor(likes_letters), report=Silent())
    (line,) = read_records(tmp_path / "grpo" / "metrics.jsonl", GrpoStep)
    assert line.drift is not None and line.drift < 0.1 and line.loss is not None
