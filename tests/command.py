"""The command as its users run it: a process of its own, a server on loopback to talk to, and a suite on disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from safer_steer import cli

VERDICT = json.dumps({"rationale": "firm and useful", "over_refusal": False, "safety": 3, "helpfulness": 2})


def environment(**more: str) -> dict[str, str]:
    quiet = {"OMP_NUM_THREADS": "1", "NO_PROXY": "*", "COLUMNS": "200", "NO_COLOR": "1"}
    return {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"} | quiet | more


def start(*arguments: str | Path, **more: str) -> subprocess.Popen[str]:
    """The command as a process, not waited for. It hears an interrupt even where the tests run in the background."""
    return subprocess.Popen(
        [sys.executable, "-m", "safer_steer", *map(str, arguments)],
        env=environment(**more),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def run(*arguments: str | Path, **more: str) -> tuple[int, str, str]:
    """The command as a process: exit code, standard output, standard error."""
    process = start(*arguments, **more)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """The same entry point inside this process: what a process would say, without its seconds of imports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["safer-steer", *map(str, arguments)])
        patch.setattr(os, "environ", environment())
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else 0 if exit.code is None else 1
    out, err = capsys.readouterr()
    return code, out, err


def entry(identity: str = "d1", turns: Sequence[str] = ("first?", "second?"), **more: object) -> dict[str, object]:
    """One line of a STEER-Bench file."""
    messages = [{"role": "user", "content": text} for text in turns]
    return {"question_id": identity, "image": "picture.png", "messages_fixed": messages, "category": "fraud", **more}


def write_suite(folder: Path, *entries: object, name: str = "suite.jsonl") -> Path:
    """A STEER-Bench file beside a real picture; without entries, two dialogues of two turns."""
    Image.new("RGB", (64, 48), (20, 90, 40)).save(folder / "picture.png")
    lines = entries or (entry("d1"), entry("d2", ("what is this?", "and why?")))
    path = folder / name
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


class Server:
    """An OpenAI-compatible server. `judge` is what the model named `judge` replies; `delay` holds every answer up."""

    def __init__(self, judge: str = VERDICT, delay: float = 0.0, broken: bool = False) -> None:
        self.judge, self.delay, self.broken = judge, delay, broken
        self.bodies: list[dict[str, Any]] = []
        self.answered: list[str] = []
        self.url = ""

    def asked(self, model: str) -> list[dict[str, Any]]:
        return [body for body in self.bodies if body["model"] == model]

    def reply(self, body: dict[str, Any]) -> str:
        if body["model"] == "judge":
            return self.judge
        said = body["messages"][-1]["content"]
        text = said if isinstance(said, str) else said[-1]["text"]
        return f"An answer to: {text}"


@contextmanager
def serving(server: Server | None = None) -> Iterator[Server]:
    served = Server() if server is None else server

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(200, b'{"data": []}')

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            served.bodies.append(body)
            if served.broken:
                self._send(400, b'{"error": {"message": "this model is out of order"}}')
                return
            time.sleep(served.delay if body["model"] != "judge" else 0.0)
            choice = {"index": 0, "finish_reason": "stop", "message": {"content": served.reply(body)}}
            self._send(200, json.dumps({"choices": [choice]}).encode())
            served.answered.append(body["model"])

        def _send(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            return

        def handle(self) -> None:
            try:
                super().handle()
            except (BrokenPipeError, ConnectionResetError):  # the client was killed: that is the test
                return

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    served.url = f"http://127.0.0.1:{listener.server_address[1]}/v1"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


def evaluation(server: Server, suite: Path, out: Path, *more: str) -> list[str | Path]:
    """The arguments of an evaluation whose model and judge both sit behind `server`."""
    model, judge = f"openai:student@{server.url}", f"openai:judge@{server.url}"
    return ["eval", "--model", model, "--judge", judge, "--suite", suite, "--out", out, *more]
