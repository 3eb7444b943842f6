"""Evaluations against servers that others wrote: transformers' own, with the embedded student, and llama.cpp's.

Each wants a package beside this project's (`fastapi uvicorn openai`, and `xllamacpp`) and is skipped without it.
"""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from command import entry, environment, run, start, write_suite
from safer_steer.embedded.build import LANGUAGE_MODEL, ensure_student, installed
from safer_steer.errors import WeightsError

SCRIPTS = Path(__file__).parents[1] / "scripts"
SECONDS = 540.0
pytestmark = pytest.mark.slow


def needs(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"the server needs {', '.join(missing)}: pip install {' '.join(missing)}")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def server(log: Path, script: str, *arguments: str | Path) -> Iterator[str]:
    """The server of a script as a process, once it listens; yields its base URL."""
    port = free_port()
    with log.open("w") as told:
        command = [sys.executable, str(SCRIPTS / script), *map(str, arguments), "--port", str(port)]
        process = subprocess.Popen(command, env=environment(), stdout=told, stderr=told)
    try:
        until = time.monotonic() + SECONDS
        while True:
            with socket.socket() as door:
                if door.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(timeout=60)


def calls(out: Path) -> list[str]:
    path = out / "calls.jsonl"
    whole = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line)["key"] for line in whole if line.endswith(b"\n")]


def test_the_embedded_student_behind_transformers_own_server_survives_a_kill(tmp_path: Path) -> None:
    needs("fastapi", "uvicorn", "openai")
    try:
        name = ensure_student().name
    except WeightsError as error:
        pytest.skip(str(error))
    suite, out = write_suite(tmp_path), tmp_path / "out"
    with server(tmp_path / "server.log", "student_server.py") as url:
        command = ("eval", "--model", f"openai:{name}@{url}", "--judge", "scripted", "--suite", suite, "--out", out,
                   "--set", "eval.max_tokens=8", "--set", "endpoints.default.concurrency=1")  # fmt: skip
        process = start(*command)
        until = time.monotonic() + SECONDS
        while len(calls(out)) < 2:
            assert process.poll() is None and time.monotonic() < until, process.communicate()
            time.sleep(0.05)
        process.kill()
        process.communicate()
        before = calls(out)
        code, _, err = run(*command)
        assert code == 0, err
    asked = calls(out)
    assert asked[: len(before)] == before and len(set(asked)) == len(asked) == 4
    found = json.loads((out / "summary.json").read_text())
    assert found["counts"] == {"dialogues": 2, "turns": 4, "scored": 4, "unscored": 0, "failed": 0}
    [line] = found["bill"]
    assert (line["role"], line["calls"], line["uncounted"]) == ("student", 4, 0)
    rows = pq.read_table(out / "turns.parquet").to_pylist()
    assert all(row["answer"] and row["completion_tokens"] <= 8 for row in rows)
    assert all(row["prompt_tokens"] > 16 for row in rows)  # 16 of them are the picture
    assert run(*command)[0] == 0 and calls(out) == asked  # the server is gone by now: nobody is asked


def test_llama_cpp_in_both_seats_and_what_it_cannot_do_is_told_at_once(tmp_path: Path) -> None:
    needs("xllamacpp")
    try:
        weights = installed(LANGUAGE_MODEL)
    except WeightsError as error:
        pytest.skip(str(error))
    words = write_suite(tmp_path, {**entry("d1", ("Hello?",)), "image": None}, name="words.jsonl")
    pictured, long = write_suite(tmp_path), {**entry("d1", ("word " * 4000,)), "image": None}
    long_suite = write_suite(tmp_path, long, name="long.jsonl")
    with server(tmp_path / "server.log", "llama_server.py", weights, "--context", "4096") as url:
        seat = f"openai:smollm2@{url}"

        def evaluate(suite: Path, out: str, judge: str = "scripted") -> tuple[int, str]:
            code, _, err = run("eval", "--model", seat, "--judge", judge, "--suite", suite, "--out", tmp_path / out,
                               "--set", "eval.max_tokens=8", "--set", "eval.max_unscored_share=1")  # fmt: skip
            return code, err

        code, err = evaluate(words, "words", judge=seat)
        assert code == 0, err
        found = json.loads((tmp_path / "words" / "summary.json").read_text())
        assert found["counts"]["scored"] + found["counts"]["unscored"] == found["counts"]["turns"] == 1
        assert {line["role"]: line["without"] for line in found["bill"]} == {"student": [], "judge": []}
        code, err = evaluate(pictured, "pictured")
        assert code != 0 and "image input is not supported" in err and "attempts" not in err
        code, err = evaluate(long_suite, "long")
        assert code != 0 and "no longer fits" in err
