"""A small made-up release of every dataset that we read, in its own layout: our words, our pictures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def picture(shade: int = 0, kind: str = "PNG") -> bytes:
    """A small image, another for every `shade`."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (shade % 256, 90, 40)).save(buffer, kind)
    return buffer.getvalue()


def put(folder: Path, *names: str) -> None:
    """Image files, each with its own content."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shade = sum(map(ord, name)) % 200
        path.write_bytes(picture(shade, "JPEG" if name.endswith("jpg") else "PNG"))


def put_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def put_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def put_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
    return path


def cell(shade: int = 0) -> dict[str, Any]:
    """An image as the datasets library stores it."""
    return {"bytes": picture(shade), "path": f"{shade}.png"}


def steer(identity: str = "1", *texts: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text} for text in (texts if texts else ("what is this?", "and then?"))]
    return {"question_id": identity, "messages_fixed": messages, "category": "fraud", "image": "a.png", **more}


def steer_bench(folder: Path) -> Path:
    put(folder, "a.png")
    for stem in ("steer_beavertails", "steer_mmsafety", "steer_vlsbench", "steer_spa", "steer_dys"):
        put_jsonl(folder / f"{stem}.jsonl", [steer("1"), steer("2", "one?", "two?", "three?")])
    return folder


def safemt(folder: Path) -> Path:
    put(folder, "Data/images/fraud/fraud_1.png")

    def row(turns: int) -> dict[str, Any]:
        said = [{"role": "user", "content": f"question {number}?"} for number in range(1, turns + 1)]
        between = [part for user in said for part in (user, {"role": "assistant", "content": "an answer"})][:-1]
        place = "/images/fraud/fraud_1.png" if turns == 4 else "images/fraud/fraud_1.png"
        return {"id": 7, "scenario": "fraud", "image_path": place, "dialogue": between, "question": "the goal"}

    for turns in (1, 2, 4):
        put_json(folder / f"Data/{turns}_turn.json", [row(turns)])
    return folder


def mtmcs(folder: Path) -> Path:
    def row(told: str) -> dict[str, Any]:
        dialogue = {
            "r1": "first", "r2": "second", "r3": "third", f"safe_{told}": "harmless", f"unsafe_{told}": "harmful",
        }  # fmt: skip
        return {
            "id": 3, "image": cell(1), "unsafe_intent": "the intent", "multimodal_dialogue": dialogue,
            "unimodal_dialogue": {**dialogue, "r2": "second in words"},
        }  # fmt: skip

    put_parquet(folder / "data/type_a-00000-of-00001.parquet", [row("r3")])
    put_parquet(folder / "data/type_b-00000-of-00001.parquet", [row("r1")])
    return folder


def cosafe(folder: Path) -> Path:
    user, assistant = {"role": "user", "content": "what is it?"}, {"role": "assistant", "content": "a thing"}
    line = [user, assistant, {"role": "user", "content": "how is it made?"}]
    put_jsonl(folder / "CoSafe datasets/fraud.json", [line, line])
    put_jsonl(folder / "CoSafe datasets/theft.json", [line])
    return folder


def safedialbench(folder: Path) -> Path:
    turns = [{"user": f"question {number}?", "bot": "an answer"} for number in (1, 2, 3)]
    row = {"id": 1, "task": "privacy", "method": "role play", "model_type": "m", "scene": "s", "history": turns}
    put_jsonl(folder / "datasets_en.jsonl", [row, {**row, "task": "fairness"}])
    put_jsonl(folder / "datasets_zh.jsonl", [{**row, "history": [{"user": "什么?", "bot": "东西"}] * 2}])
    return folder


def beavertails_v(folder: Path) -> Path:
    def row(number: int, category: str, **more: Any) -> dict[str, Any]:
        return {"question": f"question {number}?", "image": cell(number), "category": category, **more}

    severity = {"image_severity": 2}
    for category, base in (("animal_abuse", 0), ("sexual_crimes", 10)):
        answers = [{"response_1": "a", "is_response_1_safe": "yes"}, {"response_1": "b", "is_response_1_safe": "no"}]
        train = [row(base + i, category, **severity, **answer) for i in (1, 2) for answer in answers]
        put_parquet(folder / f"data/{category}/train.parquet", train)
        put_parquet(folder / f"data/{category}/evaluation.parquet", [row(base + 5, category, **severity)])
    return folder


def mm_safetybench(folder: Path) -> Path:
    def row(number: int) -> dict[str, str]:
        return {
            "Question": f"plain {number}?", "Changed Question": "c", "Key Phrase": "k", "Phrase Type": "t",
            "Rephrased Question": f"written {number}?", "Rephrased Question(SD)": f"drawn {number}?",
        }  # fmt: skip

    for name in ("01-Illegal_Activitiy", "06-Fraud"):
        put_json(folder / f"processed_questions/{name}.json", {str(i): row(i) for i in (0, 1)})
        put(folder, *(f"imgs/{name}/{kind}/{i}.jpg" for kind in ("SD", "SD_TYPO", "TYPO") for i in (0, 1)))
    return folder


def spa_vl(folder: Path) -> Path:
    def row(number: int, **more: Any) -> dict[str, Any]:
        return {"question": f"question {number}?", "image": cell(number), "chosen": "a", "rejected": "b", **more}

    classes = {"class1": "Privacy", "class2": "p2", "class3": "p3"}
    put_parquet(folder / "data/train-00000-of-00001.parquet", [row(i, **classes) for i in (1, 2, 2)])
    put_parquet(folder / "validation/validation-00000-of-00001.parquet", [row(3, **classes)])
    put_parquet(folder / "test/harm-00000-of-00001.parquet", [row(4), row(5)])
    put_parquet(folder / "test/help-00000-of-00001.parquet", [row(6)])
    return folder


def vlguard(folder: Path) -> Path:
    safe = {
        "id": "s", "image": "good/1.png", "safe": True,
        "instr-resp": [
            {"safe_instruction": "what is it?", "response": "a thing"},
            {"unsafe_instruction": "insult it", "response": "no"},
        ],
    }  # fmt: skip
    unsafe = {
        "id": "u", "image": "bad/2.png", "safe": False, "harmful_category": "privacy", "harmful_subcategory": "x",
        "instr-resp": [{"instruction": "whose is it?", "response": "no"}],
    }  # fmt: skip
    for split in ("train", "test"):
        put_json(folder / f"{split}.json", [safe, unsafe])
        put(folder, f"{split}/good/1.png", f"{split}/bad/2.png")
    return folder


def vlsbench(folder: Path) -> Path:
    row = {
        "instruction_id": 4, "instruction": "how do I use it?", "image_path": "imgs/4.png", "category": "Erotic",
        "sub_category": "s", "source": "o", "image_description": "d", "safety_reason": "r",
    }  # fmt: skip
    put(folder, "imgs/4.png", "imgs/5.png")
    put_json(folder / "data.json", [row, {**row, "instruction_id": 5, "image_path": "5.png"}])
    return folder


def siuo(folder: Path) -> Path:
    row = {
        "question_id": 1, "image": "S-01.png", "question": "which brush?", "category": "morality",
        "safety_warning": "w", "reference_answer": "a",
    }  # fmt: skip
    put(folder, "images/S-01.png")
    put_json(folder / "siuo_gen.json", [row, {**row, "question_id": 2}])
    return folder


def mssbench(folder: Path) -> Path:
    chat = {
        "safe_image_path": "s.png", "unsafe_image_path": "u.png", "unsafe_image": "d", "intent": "run",
        "Type": "physical harm", "queries": ["how to run faster?", "how far?"],
    }  # fmt: skip
    embodied = {
        "task": "place", "category": "property damage", "safe": "e1.png", "unsafe": "e2.png",
        "safe_instruction": "put it down", "unsafe_instruction": "drop it",
        "safe_instructions": ["put it down"], "unsafe_instructions": ["drop it"],
    }  # fmt: skip
    put_json(folder / "combined.json", {"chat": [chat], "embodied": [embodied]})
    put(folder, "chat/s.png", "chat/u.png", "embodied/e1.png", "embodied/e2.png")
    return folder


JAILBREAKV = ("id", "jailbreak_query", "redteam_query", "format", "policy", "image_path", "from", "selected_mini",
              "transfer_from_llm")  # fmt: skip


def jailbreakv(folder: Path) -> Path:
    rows = [
        (0, "long story,\nin two lines", "goal one", "Template", "Fraud", "llm_transfer_attack/0.png", "h", True, True),
        (1, "follow the image", "goal one", "figstep", "Fraud", "figstep/1.png", "h", False, False),
        (2, "look at it", "goal one", "SD", "Fraud", "figstep/2.png", "h", False, False),
        (3, "look at it", "goal two", "SD_typo", "Malware", "figstep/2.png", "h", True, False),
    ]
    put(folder, "llm_transfer_attack/0.png", "figstep/1.png", "figstep/2.png")
    for name, chosen in (("JailBreakV_28K.csv", rows), ("mini_JailBreakV_28K.csv", [rows[0], rows[3]])):
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows([JAILBREAKV, *chosen])
    return folder


def geometry3k(folder: Path) -> Path:
    for number, split in enumerate(("train", "validation", "test")):
        row = {"images": [cell(number)], "problem": "<image>Find x.", "answer": str(number)}
        put_parquet(folder / f"data/{split}-00000-of-00001.parquet", [row])
    return folder


def scienceqa(folder: Path) -> Path:
    row = {
        "image": cell(1), "question": "Which is larger?", "choices": ["the sun", "the moon"], "answer": 0,
        "hint": "Look at the picture.", "task": "t", "grade": "g", "subject": "natural science", "topic": "p",
        "category": "c", "skill": "s", "lecture": "l", "solution": "x",
    }  # fmt: skip
    rows = [row, {**row, "image": None}, {**row, "hint": "", "answer": 1}]
    for split in ("train", "validation", "test"):
        put_parquet(folder / f"data/{split}-00000-of-00001-0123.parquet", rows)
    return folder


def align_anything(folder: Path) -> Path:
    row = {"question": "What is it?", "image": cell(1), "response_1": "a cat", "response_2": "a dog"}
    rows = [{**row, "overall_response": 2}, {**row, "question": "Where?", "overall_response": 0}]
    put_parquet(folder / "text-image-to-text/train_40k.parquet", rows)
    put_parquet(folder / "text-image-to-text/val_1k.parquet", rows[:1])
    return folder


RELEASES: dict[str, Callable[[Path], Path]] = {
    "steer-bench": steer_bench,
    "steer-beaver": steer_bench,
    "steer-mmsafe": steer_bench,
    "steer-vls": steer_bench,
    "steer-spa": steer_bench,
    "steer-dys": steer_bench,
    "safemt": safemt,
    "mtmcs-bench": mtmcs,
    "mtmcs-bench-text": mtmcs,
    "cosafe": cosafe,
    "safedialbench-en": safedialbench,
    "safedialbench-zh": safedialbench,
    "beavertails-v": beavertails_v,
    "mm-safetybench": mm_safetybench,
    "mm-safetybench-sd": mm_safetybench,
    "mm-safetybench-sd-typo": mm_safetybench,
    "mm-safetybench-typo": mm_safetybench,
    "spa-vl": spa_vl,
    "vlguard": vlguard,
    "vlsbench": vlsbench,
    "siuo": siuo,
    "mssbench": mssbench,
    "mssbench-chat": mssbench,
    "mssbench-embodied": mssbench,
    "jailbreakv-28k": jailbreakv,
    "jailbreakv-mini": jailbreakv,
}
"""Who writes the release that a suite reads."""
