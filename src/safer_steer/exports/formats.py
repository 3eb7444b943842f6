"""The formats, each a function that writes the splits of a run into a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from safer_steer.dialogue import ImageRef
from safer_steer.errors import ConfigError
from safer_steer.exports.samples import Part, Sample, present, read
from safer_steer.exports.tables import IMAGE_FEATURE, PICTURES, list_of, pictures, value, write_table
from safer_steer.image_store import ImageStore
from safer_steer.run_folder import RunFolder
from safer_steer.store import write_json, write_stream

Written = dict[str, int]
"""File name to number of records."""

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
MESSAGES_FEATURE = list_of({"role": value("string"), "content": value("string")})
BLOCKS = pa.list_(
    pa.struct(
        [
            ("role", pa.string()),
            ("content", pa.list_(pa.struct([("type", pa.string()), ("text", pa.string())]))),
        ]
    )
)
BLOCKS_FEATURE = list_of(
    {"role": value("string"), "content": list_of({"type": value("string"), "text": value("string")})}
)
FACTS = ("id", "seed_id", "kind", "category", "strategy")


def export(run: RunFolder, format: str, folder: Path) -> Written:
    """Write every split of a run in a format of `FORMATS`; returns what was written, and how many records each.

    Raises `ConfigError` for an unknown format, `StorageError`, and `ImageError` when the run lost an image.
    """
    writer = FORMATS.get(format)
    if writer is None:
        raise ConfigError(f"there is no format '{format}'", where="--format", hint=f"known: {', '.join(FORMATS)}")
    return writer(run, present(run), folder)


def facts(sample: Sample) -> dict[str, Any]:
    """What is told of a dialogue beside its words."""
    script = sample.script
    own = {"id": script.id, "seed_id": script.seed_id, "kind": str(script.kind), "category": script.category}
    return {**own, "strategy": script.strategy}


def write_trl(run: RunFolder, parts: list[Part], folder: Path) -> Written:
    """TRL: `messages` (SFT) or `prompt` (the first turn) of content blocks, an image block for each of `images`."""
    written = {}
    for part in parts:
        column = "messages" if part is Part.SFT else "prompt"
        schema = pa.schema([(column, BLOCKS), ("images", PICTURES), ("id", pa.string())])
        features = {column: BLOCKS_FEATURE, "images": IMAGE_FEATURE, "id": value("string")}
        rows = (_trl_row(sample, column, run.images) for sample in read(run, part))
        written[f"{part}.parquet"] = write_table(folder / f"{part}.parquet", schema, rows, features)
    return written


def _trl_row(sample: Sample, column: str, images: ImageStore) -> dict[str, Any]:
    learnt = column == "messages"
    said = sample.messages() if learnt else sample.messages()[:1]
    blocks: list[dict[str, Any]] = []
    for number, message in enumerate(said):
        every = 2 if sample.answers else 1
        shown = sample.script.images_at(number // every + 1) if message["role"] == "user" else ()
        content = [*({"type": "image"} for _ in shown), {"type": "text", "text": message["content"]}]
        blocks.append({"role": message["role"], "content": content})
    refs = sample.images if learnt else sample.first_images
    return {column: blocks, "images": pictures(images, refs), "id": sample.script.id}


def write_llamafactory(run: RunFolder, parts: list[Part], folder: Path) -> Written:
    """LLaMA-Factory: ShareGPT with OpenAI's keys for SFT, image files beside it, and `dataset_info.json`."""
    if Part.SFT not in parts:
        raise ConfigError("there are no dialogues to learn from", where=run.root, hint="this format is for SFT")
    copier = _Copier(run.images, folder)

    def entries() -> Iterator[dict[str, Any]]:
        for sample in read(run, Part.SFT):
            yield {"messages": sample.marked(), "images": [copier(ref) for ref in sample.images]}

    number = _write_json_list(folder / "steer_sft.json", entries())
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    entry = {"file_name": "steer_sft.json", "formatting": "sharegpt", "tags": tags}
    columns = {"messages": "messages", "images": "images"}
    write_json(folder / "dataset_info.json", {"steer_sft": {**entry, "columns": columns}})
    return {"steer_sft.json": number}


def write_verl(run: RunFolder, parts: list[Part], folder: Path) -> Written:
    """verl: `prompt` (RL) or `messages` (SFT) with `<image>` in the first text, images as bytes in the rows."""
    written = {}
    for part in parts:
        if part is Part.SFT:
            schema = pa.schema([("messages", MESSAGES), ("images", PICTURES)])
            rows = ({"messages": s.marked(), "images": pictures(run.images, s.images)} for s in read(run, part))
        else:
            schema = _VERL_RL
            rows = (_verl_row(sample, number, part, run.images) for number, sample in enumerate(read(run, part)))
        written[f"{part}.parquet"] = write_table(folder / f"{part}.parquet", schema, rows)
    return written


_VERL_RL = pa.schema(
    [
        ("data_source", pa.string()),
        ("prompt", MESSAGES),
        ("images", PICTURES),
        ("ability", pa.string()),
        ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
        (
            "extra_info",
            pa.struct(
                [
                    ("index", pa.int64()),
                    ("split", pa.string()),
                    *((name, pa.string()) for name in FACTS),
                    ("rest", pa.list_(pa.string())),
                ]
            ),
        ),
    ]
)


def _verl_row(sample: Sample, number: int, part: Part, images: ImageStore) -> dict[str, Any]:
    rest = [message["content"] for message in sample.marked()[1:]]
    return {
        "data_source": f"steer-{part}",
        "prompt": sample.marked()[:1],
        "images": pictures(images, sample.first_images),
        "ability": "safety" if sample.script.is_unsafe else "general",
        "reward_model": {"style": "model", "ground_truth": ""},
        "extra_info": {"index": number, "split": str(part), **facts(sample), "rest": rest},
    }


def write_hub(run: RunFolder, parts: list[Part], folder: Path) -> Written:
    """Hugging Face: a parquet file for each split with an image feature, and the dataset card."""
    from safer_steer.exports.card import write_card

    names = [(name, pa.string()) for name in FACTS]
    rest = [("turns", pa.int32()), ("images", PICTURES), ("messages", MESSAGES), ("safety", pa.list_(pa.float64()))]
    schema = pa.schema([*names, *rest])
    features = {name: value("string") for name in FACTS} | {"turns": value("int32"), "images": IMAGE_FEATURE}
    features |= {"messages": MESSAGES_FEATURE, "safety": list_of(value("float64"))}
    written = {}
    for part in parts:
        path = f"data/{part}-00000-of-00001.parquet"
        rows = (_hub_row(sample, run.images) for sample in read(run, part))
        written[path] = write_table(folder / path, schema, rows, features)
    write_card(run, folder)
    return written


def _hub_row(sample: Sample, images: ImageStore) -> dict[str, Any]:
    return {
        **facts(sample),
        "turns": len(sample.asks),
        "images": pictures(images, sample.images),
        "messages": sample.messages(),
        "safety": list(sample.safety),
    }


def write_jsonl(run: RunFolder, parts: list[Part], folder: Path) -> Written:
    """Plain JSONL beside `images/`: SFT as messages, RL in STEER-RL's released form, and the scripts for validation
    and the benchmark in STEER-Bench's (with `kind`), which `safer-steer eval --suite` reads."""
    copier = _Copier(run.images, folder)
    row = {Part.SFT: _plain_sft, Part.RL: _steer_rl, Part.VAL: _steer_bench, Part.BENCH: _steer_bench}
    written = {}
    for part in parts:
        rows = (row[part](sample, [copier(ref) for ref in sample.images]) for sample in read(run, part))
        written[f"{part}.jsonl"] = _write_lines(folder / f"{part}.jsonl", rows)
    return written


def _plain_sft(sample: Sample, images: list[str]) -> dict[str, Any]:
    return {**facts(sample), "images": images, "messages": sample.messages(), "safety": list(sample.safety)}


def _steer_rl(sample: Sample, images: list[str]) -> dict[str, Any]:
    first, *rest = sample.messages()
    told = {"rest_messages": rest, "question_id": sample.script.id, "image": images[0] if images else None}
    label = "unsafe" if sample.script.is_unsafe else "safe"
    return {"question": [first], "images": images, "label": label, "metadata": told}


def _steer_bench(sample: Sample, images: list[str]) -> dict[str, Any]:
    risks = [turn.risk for turn in sample.script.turns]
    entry: dict[str, Any] = {"question_id": sample.script.id}
    if images:
        entry["image"] = images[0] if len(images) == 1 else images
    entry |= {"messages_fixed": sample.messages(), "category": sample.script.category}
    entry["kind"] = str(sample.script.kind)
    return entry | ({"risk_trajectory": risks} if None not in risks else {})


class _Copier:
    """Puts images into `images/` of a folder, each once, under their content's hash; gives back the relative path."""

    def __init__(self, images: ImageStore, folder: Path) -> None:
        self._from, self._to, self._root = images, ImageStore(folder / "images"), folder
        self._done: dict[str, str] = {}

    def __call__(self, ref: ImageRef) -> str:
        if ref.sha256 not in self._done:
            write_stream(self._to.path(ref), [self._from.read(ref)])
            self._done[ref.sha256] = str(self._to.path(ref).relative_to(self._root))
        return self._done[ref.sha256]


def _write_lines(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    number = 0

    def lines() -> Iterator[bytes]:
        nonlocal number
        for row in rows:
            number += 1
            yield orjson.dumps(row) + b"\n"

    write_stream(path, lines())
    return number


def _write_json_list(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    """A JSON array, one entry a line."""
    number = 0

    def pieces() -> Iterator[bytes]:
        nonlocal number
        for row in rows:
            yield (b"[\n" if number == 0 else b",\n") + orjson.dumps(row)
            number += 1
        yield b"\n]\n" if number else b"[]\n"

    write_stream(path, pieces())
    return number


FORMATS: Mapping[str, Callable[[RunFolder, list[Part], Path], Written]] = {
    "trl": write_trl,
    "llamafactory": write_llamafactory,
    "verl": write_verl,
    "hub": write_hub,
    "jsonl": write_jsonl,
}
