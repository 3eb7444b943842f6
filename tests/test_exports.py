"""The exports to the letter: columns, types, placeholders, row groups. Their owners' loaders: `tests/loaders`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from command import call
from finished_run import finished_run, one, played
from safer_steer.bench.suites import load_suite
from safer_steer.dialogue import Script, ScriptKind, Split
from safer_steer.errors import ConfigError, ImageError, StorageError
from safer_steer.exports import FORMATS, export
from safer_steer.exports.tables import ROWS_PER_GROUP
from safer_steer.image_store import ImageStore
from safer_steer.run_folder import RunFolder
from safer_steer.store import read_records, write_records


def test_trl_has_blocks_and_an_image_feature(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    written = export(run, "trl", tmp_path / "out")
    assert written == {"sft.parquet": 2, "rl.parquet": 3, "bench.parquet": 2}
    table = pq.read_table(tmp_path / "out" / "sft.parquet")
    assert table.column_names == ["messages", "images", "id"]
    first = table.to_pylist()[0]
    assert first["messages"] == [
        {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "s1 asks 1 <image>"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "answer 1"}]},
        {"role": "user", "content": [{"type": "text", "text": "s1 asks 2"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "answer 2"}]},
    ]
    assert Image.open(io.BytesIO(first["images"][0]["bytes"])).size == (32, 25)
    told = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert told["images"] == {"feature": {"_type": "Image"}, "_type": "List"}
    rl = pq.read_table(tmp_path / "out" / "rl.parquet").to_pylist()
    assert [len(row["images"]) for row in rl] == [1, 2, 1], "a prompt brings the first turn's images"
    assert [[block["type"] for block in row["prompt"][0]["content"]] for row in rl] == [
        ["image", "text"], ["image", "image", "text"], ["image", "text"],
    ]  # fmt: skip
    assert {len(row["prompt"]) for row in rl} == {1}


def test_llamafactory_has_sharegpt_and_its_dataset_info(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    assert export(run, "llamafactory", tmp_path / "out") == {"steer_sft.json": 2}
    first, second = json.loads((tmp_path / "out" / "steer_sft.json").read_text())
    assert first["messages"][0] == {"role": "user", "content": "<image>s1 asks 1 ‹image>"}
    assert [message["role"] for message in first["messages"]] == ["user", "assistant"] * 2
    assert second["images"] == [] and "<image>" not in json.dumps(second)
    stored = (tmp_path / "out" / first["images"][0]).read_bytes()
    assert first["images"][0].startswith("images/") and Image.open(io.BytesIO(stored)).size == (32, 25)
    assert json.loads((tmp_path / "out" / "dataset_info.json").read_text()) == {
        "steer_sft": {
            "file_name": "steer_sft.json",
            "formatting": "sharegpt",
            "tags": {
                "role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
            },
            "columns": {"messages": "messages", "images": "images"},
        }
    }  # fmt: skip


def test_verl_has_as_many_images_as_placeholders(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    assert export(run, "verl", tmp_path / "out") == {"sft.parquet": 2, "rl.parquet": 3, "bench.parquet": 2}
    schema = pq.read_schema(tmp_path / "out" / "rl.parquet")
    assert schema.names == ["data_source", "prompt", "images", "ability", "reward_model", "extra_info"]
    assert schema.field("images").type == pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    for name, column in (("sft", "messages"), ("rl", "prompt"), ("bench", "prompt")):
        for row in pq.read_table(tmp_path / "out" / f"{name}.parquet").to_pylist():
            marks = sum(message["content"].count("<image>") for message in row[column])
            assert marks == len(row["images"])
            assert all(image["bytes"].startswith(b"\x89PNG") for image in row["images"])
    last = pq.read_table(tmp_path / "out" / "rl.parquet").to_pylist()[2]
    assert last["prompt"] == [{"role": "user", "content": "<image>r3 asks 1"}]
    assert last["reward_model"] == {"style": "model", "ground_truth": ""} and last["ability"] == "safety"
    assert last["extra_info"] == {
        "index": 2, "split": "rl", "id": "r3", "seed_id": "seed-r3", "kind": "obfuscated", "category": "fraud",
        "strategy": None, "rest": ["<image>r3 asks 2", "r3 asks 3"],
    }  # fmt: skip


def test_the_hub_gets_parquet_its_viewer_shows_and_a_card(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    many = [played(one(f"s{n:03}", ScriptKind.BENIGN, Split.TRAIN, ())) for n in range(250)]
    write_records(run.root / "bootstrap" / "kept.jsonl", many)
    written = export(run, "hub", tmp_path / "out")
    assert written["data/sft-00000-of-00001.parquet"] == 250
    file = pq.ParquetFile(tmp_path / "out" / "data" / "sft-00000-of-00001.parquet")
    groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    assert groups == [100, 100, 50] and ROWS_PER_GROUP == 100
    assert file.schema_arrow.names == [
        "id", "seed_id", "kind", "category", "strategy", "turns", "images", "messages", "safety",
    ]  # fmt: skip
    assert file.metadata.row_group(0).column(0).has_offset_index
    row = pq.read_table(tmp_path / "out" / "data" / "bench-00000-of-00001.parquet").to_pylist()[0]
    assert (row["turns"], len(row["messages"]), row["safety"]) == (10, 10, [])
    front, _, text = (tmp_path / "out" / "README.md").read_text().removeprefix("---\n").partition("---\n")
    assert "path: data/bench-*.parquet" in front and "size_categories:\n- n<1K" in front
    assert "| `rl` | scripts for GRPO | 3 | 3–4 | 3.33 | 3 |" in text
    assert (tmp_path / "out" / "stats.png").read_bytes().startswith(b"\x89PNG")


def test_our_own_jsonl_is_read_back_as_a_suite(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    written = export(run, "jsonl", tmp_path / "out")
    assert written == {"sft.jsonl": 2, "rl.jsonl": 3, "bench.jsonl": 2}
    suite = load_suite(str(tmp_path / "out" / "bench.jsonl"), ImageStore(tmp_path / "store"))
    assert [(script.id, len(script.turns), len(script.images)) for script in suite] == [("b1", 10, 1), ("b2", 5, 1)]
    assert [script.kind for script in suite] == [
        s.kind for s in read_records(run.root / "bootstrap/bench.jsonl", Script)
    ]
    assert {script.kind for script in suite} == {ScriptKind.RED_TEAM, ScriptKind.BENIGN}
    rl = [json.loads(line) for line in (tmp_path / "out" / "rl.jsonl").read_text().splitlines()]
    assert set(rl[0]) == {"question", "images", "label", "metadata"}
    assert set(rl[0]["metadata"]) == {"rest_messages", "question_id", "image"}
    assert rl[1]["label"] == "safe" and len(rl[1]["images"]) == 2
    assert (
        rl[0]["question"] == [{"role": "user", "content": "r1 asks 1"}] and len(rl[0]["metadata"]["rest_messages"]) == 2
    )
    names = {path.name for path in (tmp_path / "out" / "images").iterdir()}
    assert names == {path.name for path in (run.root / "images").iterdir()}


def test_an_export_that_cannot_be_whole_says_why(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"no format 'xml'.*trl, llamafactory, verl, hub, jsonl"):
        export(run, "xml", tmp_path / "out")
    with pytest.raises(StorageError, match="no finished splits"):
        export(RunFolder(tmp_path / "empty"), "trl", tmp_path / "out")
    for path in (run.root / "images").iterdir():
        path.unlink()
    for name in FORMATS:
        with pytest.raises(ImageError, match="lost an image"):
            export(run, name, tmp_path / name)
        assert not [path for path in (tmp_path / name).rglob("*") if path.name.startswith(".")], "no half-written file"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished_run(tmp_path / "run")
    code, out, _ = call(capsys, "data", "export", run.root, "--format", "verl")
    assert code == 0 and out.splitlines()[0] == f"{run.root}/data/verl/sft.parquet: 2"
    code, out, err = call(capsys, "data", "stats", run.root, "--to", tmp_path / "told")
    assert code == 0, err
    assert (tmp_path / "told" / "stats.txt").read_text() == out
    code, _, err = call(capsys, "data", "export", tmp_path / "nowhere", "--format", "trl")
    assert code == 1 and "no such run folder" in err


def test_training_data_is_held_against_any_suite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished_run(tmp_path / "run")
    export(run, "jsonl", tmp_path / "out")
    lines = (tmp_path / "out" / "bench.jsonl").read_text().splitlines()
    words = " ".join(f"word{n}" for n in range(30))
    scripts = [json.loads(line) for line in lines]
    folder = tmp_path / "suite"
    folder.mkdir()
    lot = Image.effect_noise((64, 64), 90)
    lot.save(folder / "noise.png")
    clean = {**scripts[1], "image": "noise.png", "messages_fixed": [{"role": "user", "content": words}] * 2}
    (folder / "clean.jsonl").write_text(json.dumps(clean) + "\n")
    code, out, _ = call(capsys, "data", "check", run.root, "--suite", folder / "clean.jsonl")
    assert code == 0 and json.loads(out)["dialogues"] == {"rl": 3, "sft": 2, str(folder / "clean.jsonl"): 1}
    code, out, _ = call(capsys, "data", "check", run.root, "--suite", tmp_path / "out" / "bench.jsonl")
    found = {(one["id"], one["image_bits"]) for one in json.loads(out)["overlaps"]}
    assert code == 1 and {name for name, _ in found} == {"sft/s1", "rl/r1", "rl/r2", "rl/r3"}
    assert ("rl/r1", 0) in found, "the same picture"
