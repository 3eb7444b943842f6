"""Every bad input: one clear message that names it, exit code 1, nothing lost and nobody asked."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from command import Server, call, entry, evaluation, serving, write_suite

Capture = pytest.CaptureFixture[str]


def fault(answer: tuple[int, str, str]) -> str:
    """The one message of a failed command."""
    code, _, err = answer
    assert code == 1, (code, err)
    lines = [line for line in err.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    assert "Traceback" not in err
    return lines[0]


BAD_LINES = [
    ("not JSON at all", ["not JSON"]),
    ('{"question_id": "d1", ', ["not JSON"]),
    ('{"a": ' * 100_000, ["not JSON"]),
    ("[" * 100_000, ["not a JSON object but an array"]),
    ("[1, 2]", ["not a JSON object", "one JSON object a line"]),
    (entry(image="missing.png"), ["'image'", "missing.png", "no such image file"]),
    (entry(image="corrupt.png"), ["'image'", "corrupt.png", "not a readable image"]),
    (entry(image="empty.png"), ["'image'", "empty.png", "empty"]),
    (entry(image="../outside.png"), ["'image'", "../outside.png", "outside"]),
    (entry(image="/etc/hostname"), ["'image'", "/etc/hostname", "outside"]),
    (entry(image="loop.png"), ["'image'", "loop.png"]),
    (entry(image="a\0b.png"), ["'image'", "null"]),
    (entry(image=["picture.png", 7]), ["'image'", "7"]),
    (entry(image="."), ["'image'"]),
    (entry(turns=()), ["'messages_fixed'", "0 user turns"]),
    (entry(turns=["x"] * 11), ["'messages_fixed'", "11 user turns"]),
    (entry(turns=["fine", " "]), ["'messages_fixed[1].content'", "empty user turn"]),
    (entry(messages_fixed="hello"), ["'messages_fixed'", "list"]),
    (entry(messages_fixed=[{"role": "tutor", "content": "x"}]), ["'messages_fixed[0].role'", "tutor"]),
    (entry(messages_fixed=[{"role": "user"}]), ["'messages_fixed[0]'"]),
    (entry(messages_fixed=[{"role": "user", "content": 3}]), ["'messages_fixed[0].content'"]),
    (entry(messages_fixed=[{"role": "user", "content": [{"type": "video"}]}]), ["'messages_fixed[0].content'"]),
    (entry(turns=["half a pair: \ud800"]), ["not JSON", "surrogates"]),
    (entry(mood="good"), ["'mood'", "not a STEER-Bench field"]),
    (entry(question_id=""), ["'question_id'", "non-empty"]),
    (entry(category=None), ["'category'"]),
    ({"question_id": "d1", "category": "fraud"}, ["'messages_fixed'", "missing"]),
    (entry("d0"), ["'question_id'", "'d0'", "twice"]),
]


@pytest.mark.parametrize(("line", "said"), BAD_LINES, ids=[str(i) for i in range(len(BAD_LINES))])
def test_a_bad_line_is_named_by_file_line_and_field(
    tmp_path: Path, capsys: Capture, line: object, said: list[str]
) -> None:
    suite = write_suite(tmp_path, entry("d0"), "", line, entry("d9"))
    (tmp_path / "corrupt.png").write_bytes((tmp_path / "picture.png").read_bytes()[:60])
    (tmp_path / "empty.png").touch()
    (tmp_path / "loop.png").symlink_to("loop.png")
    with serving() as server:
        arguments = evaluation(server, suite, tmp_path / "out")
        message = fault(call(capsys, *arguments))
        assert fault(call(capsys, *arguments, "--dry-run")) == message
    assert f"{suite}:3" in message
    assert [part for part in said if part not in message] == []
    assert len(message) < 600
    assert not server.bodies


@pytest.mark.parametrize("content", [b"", b"\n\n", None])
def test_an_empty_or_missing_suite_is_named(tmp_path: Path, capsys: Capture, content: bytes | None) -> None:
    suite = tmp_path / "nothing.jsonl"
    if content is not None:
        suite.write_bytes(content)
    with serving() as server:
        message = fault(call(capsys, *evaluation(server, suite, tmp_path / "out")))
    assert str(suite) in message
    assert ("no dialogue" if content is not None else "No such file") in message


def test_a_mended_suite_goes_on_in_the_folder_of_the_failed_attempt(tmp_path: Path, capsys: Capture) -> None:
    suite = write_suite(tmp_path, entry("d0"), "not JSON")
    with serving() as server:
        arguments = evaluation(server, suite, tmp_path / "out")
        fault(call(capsys, *arguments))
        write_suite(tmp_path, entry("d0"))
        assert call(capsys, *arguments)[0] == 0
        write_suite(tmp_path, entry("d0", ("something else?",)))
        assert "another suite" in fault(call(capsys, *arguments))


def test_an_unknown_suite_says_which_there_are(tmp_path: Path, capsys: Capture) -> None:
    command = ("eval", "--model", "scripted", "--suite", "steer-maxi", "--out", tmp_path / "out")
    message = fault(call(capsys, *command))
    assert "steer-maxi" in message and "steer-mini" in message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "grpo.sampels=3"], ["unknown key 'grpo.sampels'", "safer-steer recipe"]),
        (["--set", "colour=red"], ["unknown key 'colour'"]),
        (["--set", "grpo.samples=many"], ["'grpo.samples'", "integer"]),
        (["--set", "grpo.samples=1"], ["'grpo.samples'", "greater than or equal to 2"]),
        (["--set", "grpo"], ["'grpo'", "section.key=value"]),
        (["--set", "seed.x=1"], ["'seed' is not a section"]),
        (["--set", "seed=[1"], ["not YAML"]),
        (["--set", "sft.learning_rate=.inf"], ["'sft.learning_rate'", "finite"]),
        (["--set", "grpo.weights={safety: 1, usefulness: 1, faithfulness: 1}"], ["sum to 3"]),
        (["--set", "seats.tutor=robot"], ["seats.tutor", "'robot'", "scripted"]),
        (["--set", "seats.judge=openai:m"], ["seats.judge", "base URL"]),
        (["--recipe", "no-such.yaml"], ["no-such.yaml", "No such file"]),
        (["--recipe", "list.yaml"], ["list.yaml", "mapping"]),
        (["--recipe", "broken.yaml"], ["broken.yaml", "not YAML"]),
        (["--recipe", "binary.yaml"], ["binary.yaml", "not YAML"]),
        (["--recipe", "typo.yaml"], ["typo.yaml", "unknown key 'grpo.sampels'"]),
    ],
)
def test_a_bad_recipe_or_override_names_the_key(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.yaml").write_text("- 1\n")
    Path("broken.yaml").write_text("a: [1\nb: {")
    Path("binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    Path("typo.yaml").write_text("grpo: {sampels: 3}\n")
    code, _, err = call(capsys, "demo", "--dry-run", *arguments)
    assert code == 1 and err.startswith("error: ") and "Traceback" not in err
    assert [part for part in said if part not in err] == []


@pytest.mark.parametrize(
    "spec", ["robot", "openai:", "openai:m", "openai:m@ftp://x", "local:", "local:/no/such/folder"]
)
def test_a_bad_spec_is_named(tmp_path: Path, capsys: Capture, spec: str) -> None:
    suite = write_suite(tmp_path)
    fault(call(capsys, "eval", "--model", spec, "--suite", suite, "--out", tmp_path / "out"))


def test_a_missing_key_is_said_before_anything_is_sent(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*arguments: object, **more: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    command = ("eval", "--suite", write_suite(tmp_path), "--out", tmp_path / "out", "--judge", "scripted")
    message = fault(call(capsys, *command, "--model", "openai:m@https://models.example.org/v1"))
    assert "OPENAI_API_KEY" in message and "https://models.example.org/v1" in message


def test_an_unreachable_endpoint_names_its_address(tmp_path: Path, capsys: Capture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        server = Server()
        server.url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        suite = write_suite(tmp_path)
        message = fault(call(capsys, *evaluation(server, suite, tmp_path / "out")))
    assert server.url in message and "is the server up" in message


def test_a_model_that_is_down_is_said_once_and_the_folder_goes_on_later(tmp_path: Path, capsys: Capture) -> None:
    suite, out = write_suite(tmp_path), tmp_path / "out"
    with serving() as server:
        server.broken = True
        code, _, err = call(capsys, *evaluation(server, suite, out))
        assert code == 1 and server.url in err and "out of order" in err and err.count("error: ") == 1
        server.broken = False
        assert call(capsys, *evaluation(server, suite, out))[0] == 0
    assert json.loads((out / "summary.json").read_text())["counts"]["failed"] == 0


def test_out_must_be_a_folder_and_new_where_that_is_asked(tmp_path: Path, capsys: Capture) -> None:
    suite = write_suite(tmp_path)
    with serving() as server:
        assert "not a folder" in fault(call(capsys, *evaluation(server, suite, suite)))
        assert "not empty" in fault(call(capsys, *evaluation(server, suite, tmp_path, "--no-resume")))
        assert not server.bodies


def test_stages_out_of_order_name_the_one_to_run_first(tmp_path: Path, capsys: Capture) -> None:
    for stage, before in (("bootstrap", "construct"), ("sft", "bootstrap"), ("grpo", "sft")):
        assert f"safer-steer {before}" in fault(call(capsys, stage, "--out", tmp_path))
    assert "no such run folder" in fault(call(capsys, "report", "--out", tmp_path / "nowhere"))
    assert "no evaluation is finished" in fault(call(capsys, "report", "--out", tmp_path))


def test_a_bad_seed_file_is_named_by_file_line_and_field(tmp_path: Path, capsys: Capture) -> None:
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text('{"id": "s1", "question": "Why?", "category": "fraud", "image": "gone.png"}\n')
    for more in ([], ["--dry-run"]):
        command = ("construct", "--set", f"construction.seeds={seeds}", "--out", tmp_path / "out", *more)
        message = fault(call(capsys, *command))
        assert f"{seeds}:1" in message and "'image'" in message and "gone.png" in message


def test_the_demo_looks_at_its_last_inputs_first(tmp_path: Path, capsys: Capture) -> None:
    suite = write_suite(tmp_path, entry("d1"), entry("d2", image="gone.png"))
    for given, said in (("gone.jsonl", "gone.jsonl"), (suite, f"{suite}:2: field 'image': 'gone.png'")):
        command = ("demo", "--set", f"eval.suite={given}", "--out", tmp_path / "out")
        assert said in fault(call(capsys, *command))
        assert not (tmp_path / "out" / "construct").exists()
