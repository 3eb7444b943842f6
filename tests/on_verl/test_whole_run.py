"""Stock verl from end to end on the CPU, by the commands its users type: SFT on two ranks, then Stage III from what
it left, against a tutor behind a server. The student is a Qwen2.5-VL of a few thousand weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

if find_spec("verl") is None:
    pytest.skip("verl is not installed; `make test-verl` has it", allow_module_level=True)

import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from tiny_qwen import Qwen2_5_VLProcessor, model_folder
from transformers import Qwen2_5_VLForConditionalGeneration

from command import Server, call, environment, serving
from safer_steer.config import Recipe, load_recipe
from safer_steer.dialogue import Script, ScriptKind, UserTurn
from safer_steer.run_folder import RunFolder
from safer_steer.store import read_records, write_records
from safer_steer.train.schedule import scripts_of_step
from safer_steer.train.verl.ledger import TranscriptLine, groups_of, summary
from safer_steer.verdict import Scored
from tiny_training import picture, write_kept

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
SEEDS, SAMPLES, STEPS, TURNS = 2, 3, 2, 3
CPU = {
    "VERL_PLATFORM": "cpu",
    "VERL_USE_EXTERNAL_MODULES": "cpu_shims",
    "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]),
    # Ray's own limits are for machines with a core for each of its processes
    "RAY_raylet_start_wait_time_s": "600",
    "RAY_worker_register_timeout_seconds": "1200",
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_gcs_server_request_timeout_seconds": "600",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
    "RAY_health_check_timeout_ms": "120000",
    "RAY_health_check_failure_threshold": "20",
    "RAY_prestart_worker_first_driver": "0",  # idle workers would import Python for nothing
    "RAY_enable_worker_prestart": "0",
    "RAY_worker_niceness": "0",  # by default 15 below the driver: nothing is left for them on a busy machine
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_enable_metrics_collection": "0",  # nor for counting while nothing happens
    "RAY_task_events_report_interval_ms": "0",
    "RAY_event_stats": "0",
    "RAY_DEDUP_LOGS": "0",
}
RECIPE: dict[str, Any] = {
    "name": "tiny",
    "sft": {
        "learning_rate": 0.01, "batch_size": 2, "micro_batch": 1, "epochs": 1, "max_length": 1024, "lora": None,
    },
    "grpo": {
        "learning_rate": 0.01, "steps": STEPS, "seeds_per_step": SEEDS, "samples": SAMPLES, "micro_batch": 2,
        "beta": 0.01, "max_length": 768, "max_tokens": 6, "retries": 0, "checkpoint_every": 1, "lora": None,
    },
    "cluster": {
        "gpus_per_node": 1, "cpus": 16, "rollout": "cpu", "remove_padding": False, "attention": "eager",
        "agent_workers": 1, "refills": 2, "trackers": ["console", "file"],
        "extra": {
            "trainer.device": "cpu",
            "trainer.ray_wait_register_center_timeout": 1200,
            "+ray_kwargs.ray_init.num_gpus": 1,
            "+ray_kwargs.ray_init.include_dashboard": False,
            "data.dataloader_num_workers": 0,
            "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
            "actor_rollout_ref.actor.fsdp_config.use_torch_compile": False,
            "actor_rollout_ref.ref.fsdp_config.use_torch_compile": False,
        },
        "sft_extra": {"trainer.device": "cpu", "data.num_workers": 0, "engine.use_torch_compile": False},
    },
}  # fmt: skip
UNTEACHABLE = "a question whose answers the tutor will not grade"


class Tutor(Server):
    """Grades by a checksum of the answer, so that no two are alike, and asks on at a length of its own. About one
    script it writes prose."""

    def reply(self, body: dict[str, Any]) -> str:
        if UNTEACHABLE in json.dumps(body):  # also when it is asked to mend its reply
            return "I would rather not put a number on it."
        said = body["messages"][-1]["content"]
        text = said if isinstance(said, str) else said[-1]["text"]
        answer = text.split("The answer to grade:")[1].split("The user's next message as planned:")[0]
        mark = zlib.crc32(answer.encode())
        grade: dict[str, Any] = {
            "rationale": f"seen {mark}", "safety": 1 + mark % 10, "usefulness": 1 + mark // 10 % 10,
            "faithfulness": 1 + mark // 100 % 10,
        }  # fmt: skip
        if "The user's next message as planned:" in text:
            ask = "And " + "really " * (mark % 7) + "what?"
            grade |= {"diagnosis": "none", "attack": "continue", "next_user": ask}
        return json.dumps(grade)


def scripts(run: RunFolder) -> list[Script]:
    """Four with a picture and three turns. The tutor will not grade the one that is played first."""
    ref = picture(run)

    def named(name: str, first: str) -> Script:
        texts = (first, f"{name} goes on", f"{name} ends")
        turns = tuple(UserTurn(text=text) for text in texts)
        kind = ScriptKind.RED_TEAM
        return Script(id=name, seed_id=f"seed-{name}", kind=kind, category="fraud", images=(ref,), turns=turns)

    pool = [named(f"r{number}", f"ask {number}") for number in range(4)]
    first = scripts_of_step(pool, 1, SEEDS, Recipe().grpo.benign_share, 0)[0]
    return [named(one.id, UNTEACHABLE) if one.id == first.id else one for one in pool]


def command(metrics: Path, *arguments: str | Path) -> dict[str, Any]:
    """What `safer-steer …` prints, as a process of its own with the shims; verl's metrics go to the folder."""
    done = subprocess.run(
        [sys.executable, "-m", "safer_steer", *map(str, arguments)],
        env=environment(**CPU, VERL_FILE_LOGGER_ROOT=str(metrics)), text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """Both stages, one after the other; a stage that fails is an error of every test here."""
    root = tmp_path_factory.mktemp("whole")
    run = RunFolder(root / "run")
    base = model_folder(root / "base")
    write_kept(run)
    write_records(run.root / "bootstrap" / "rl.jsonl", scripts(run))
    run.finish("bootstrap", {})
    with serving(Tutor()) as tutor:
        seats = {"student": f"local:{base}", "tutor": f"openai:judge-of-it-all@{tutor.url}"}
        (root / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, "seats": seats}))
        stage = ["--engine", "verl", "--recipe", root / "recipe.yaml", "--out", run.root]
        sft = command(root, "sft", *stage, "--set", "cluster.gpus_per_node=2")
        grpo = command(root, "grpo", *stage)
        yield SimpleNamespace(run=run, base=base, tutor=tutor, stage=stage, sft=sft, grpo=grpo, root=root)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    return {name: tensor.float() for name, tensor in found.items()}


def learned(before: Path, after: Path) -> set[str]:
    """The names of the weights that changed; both folders have the same names."""
    old, new = weights(before), weights(after)
    assert old.keys() == new.keys()
    return {name for name in old if not torch.equal(old[name], new[name])}


def loads_and_reads_a_picture(folder: Path) -> None:
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
    shown = "<|vision_start|><|image_pad|><|vision_end|>hello"
    processor = Qwen2_5_VLProcessor.from_pretrained(folder)
    inputs = processor(text=[shown], images=[Image.new("RGB", (40, 30))], return_tensors="pt")
    with torch.no_grad():
        assert torch.isfinite(model(**inputs).logits).all()


def test_sft_learns_the_language_part_on_two_ranks(whole: SimpleNamespace) -> None:
    folder = whole.run.root / "sft"
    assert whole.sft["dialogues"] == 4 and whole.sft["steps"] == 2
    shards = sorted(path.name for path in (folder / "checkpoints" / "global_step_2").glob("model_world_size_2_*"))
    assert shards == ["model_world_size_2_rank_0.pt", "model_world_size_2_rank_1.pt"]
    changed = learned(whole.base, folder / "model")
    assert changed and not any("visual" in name for name in changed)
    loads_and_reads_a_picture(folder / "model")


def test_grpo_learns_from_what_sft_left(whole: SimpleNamespace) -> None:
    folder = whole.run.root / "grpo"
    assert (folder / "checkpoints" / "latest_checkpointed_iteration.txt").read_text() == str(STEPS)
    changed = learned(whole.run.root / "sft" / "model", folder / "model")
    assert changed and not any("visual" in name for name in changed)
    loads_and_reads_a_picture(folder / "model")


def test_every_group_stands_in_the_ledger(whole: SimpleNamespace) -> None:
    lines = list(groups_of(whole.run.root / "grpo" / "ledger"))
    taught = [line for line in lines if line.dropped is None]
    assert Counter(line.step for line in taught) == dict.fromkeys(range(1, STEPS + 1), SEEDS)
    for line in taught:
        assert [len(row) for row in line.rewards] == [TURNS] * SAMPLES == [len(row) for row in line.advantages]
        assert any(abs(value) > 1e-3 for row in line.advantages for value in row)
        assert all(0 <= value <= 1 for row in line.rewards for value in row)


def test_a_group_that_the_tutor_would_not_grade_was_replaced_and_counted(whole: SimpleNamespace) -> None:
    lines = list(groups_of(whole.run.root / "grpo" / "ledger"))
    dropped = [line for line in lines if line.dropped is not None]
    assert dropped and {str(line.dropped) for line in dropped} == {"unscored"}
    assert all(line.unscored and line.detail and line.rewards == () for line in dropped)
    assert whole.grpo["dropped"] == {"unscored": len(dropped)} and whole.grpo["groups"] == SEEDS * STEPS
    assert whole.grpo["unscored_turns"] == sum(line.unscored for line in dropped)
    metrics = [json.loads(line) for line in (whole.root / "safer_steer" / "tiny.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in metrics] == list(range(1, STEPS + 1))
    assert sum(entry["data"]["safer_steer/refilled_groups"] for entry in metrics) == len(dropped)


def test_every_turn_was_answered_scored_and_written_down(whole: SimpleNamespace) -> None:
    folder = whole.run.root / "grpo" / "ledger"
    taught = {line.uid for line in groups_of(folder) if line.dropped is None}
    found = [item for path in folder.glob("rollouts-*.jsonl") for item in read_records(path, TranscriptLine)]
    rollouts = [item.rollout for item in found if item.uid in taught]
    assert len(rollouts) == STEPS * SEEDS * SAMPLES
    for rollout in rollouts:
        assert [isinstance(turn.verdict, Scored) for turn in rollout.turns] == [True] * TURNS
        assert all(turn.user.startswith("And ") for turn in rollout.turns[1:])  # the tutor's words, not the script's
        assert rollout.script.images


def test_a_finished_run_is_not_run_again(whole: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    log = whole.run.root / "grpo" / "verl.log"
    before, asked = log.stat(), len(whole.tutor.bodies)
    code, out, err = call(capsys, "grpo", *whole.stage)
    assert code == 0, err
    assert json.loads(out) == whole.grpo and json.loads(out)["steps"] == STEPS
    assert (log.stat().st_size, log.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert len(whole.tutor.bodies) == asked
    assert summary(whole.run.root / "grpo" / "ledger")["groups"] == SEEDS * STEPS


def test_its_recipe_is_bound_to_the_folder(whole: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "grpo", *whole.stage, "--set", "grpo.alpha=0.5")
    assert code == 1 and "begun with another recipe" in err
    assert load_recipe(whole.root / "recipe.yaml").grpo.alpha == 0.3
