"""The offline judge's networks, packed for reading against the same unpacked: seconds an answer, one thread.

Every answer is read anew (nothing remembered), in turns of both within one run. `python benchmarks/offline_judge.py`
"""

from __future__ import annotations

import argparse
import time
from importlib import resources
from statistics import median
from unittest.mock import patch

import orjson
import torch
from tqdm import tqdm

from safer_steer.actors import local
from safer_steer.actors.offline.encoders import Eyes
from safer_steer.actors.offline.features import Case


def cases(count: int) -> list[Case]:
    """Labelled answers, each to its request alone."""
    text = (resources.files("safer_steer.actors.offline") / "data" / "labelled_answers.jsonl").read_bytes()
    rows = [orjson.loads(line) for line in text.splitlines()]
    return [Case(request=row["request"], answer=row["answer"]) for row in rows[:: max(1, len(rows) // count)]][:count]


def seconds(eyes: Eyes, case: Case) -> float:
    """How long a look takes when nothing is remembered."""
    eyes.sentences._remembered.cache_clear()
    eyes._pair._remembered.cache_clear()
    began = time.perf_counter()
    eyes.look(case)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=100)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    packed = Eyes()
    with patch.object(local, "pack_for_reading", lambda model, rows: local.use_onednn(model)):
        plain = Eyes()
    pairs = [(seconds(plain, case), seconds(packed, case)) for case in tqdm(cases(asked.answers))]
    a, b = (median(column) for column in zip(*pairs, strict=True))
    print(f"unpacked {1000 * a:.0f} ms, packed {1000 * b:.0f} ms an answer: {b / a:.2f}")


if __name__ == "__main__":
    main()
