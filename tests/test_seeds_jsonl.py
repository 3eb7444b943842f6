"""Users' own seed files: what is read, and the one clear error for everything that is wrong with them."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from safer_steer.dialogue import SeedKind, Split
from safer_steer.errors import DataError, ImageError, SaferSteerError
from safer_steer.formats import images
from safer_steer.image_store import MAX_PIXELS, ImageStore
from safer_steer.seeds import load_jsonl

ROW: dict[str, Any] = {"id": "s1", "question": "What is this?", "category": "fraud", "image": "a.png"}
Write = Callable[..., Path]


def picture(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "mine"
    place.mkdir()
    (place / "a.png").write_bytes(picture())
    return place


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


@pytest.fixture
def write(folder: Path) -> Write:
    def writer(*rows: dict[str, Any] | str | bytes) -> Path:
        lines = [row if isinstance(row, str | bytes) else json.dumps(row) for row in rows]
        path = folder / "seeds.jsonl"
        path.write_bytes(b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines))
        return path

    return writer


def test_a_plain_line_becomes_a_harmful_seed(write: Write, store: ImageStore) -> None:
    (seed,) = load_jsonl(write(ROW), store)
    assert (seed.id, seed.question, seed.category) == ("s1", "What is this?", "fraud")
    assert (seed.kind, seed.split, seed.source, seed.licence) == (SeedKind.HARMFUL, None, "user", "unknown")
    (ref,) = seed.images
    assert (ref.width, ref.height, ref.media_type, ref.name) == (6, 4, "image/png", "a.png")
    assert store.read(ref) == picture()


def test_every_key_is_kept(write: Write, store: ImageStore, folder: Path) -> None:
    (folder / "b.png").write_bytes(picture("blue"))
    extra = {"kind": "benign", "split": "val", "facts": ["a red square"], "reference": "A square.", "borderline": True}
    row = {"id": "s1", "question": "Q", "category": "c", "images": ["a.png", "b.png"], **extra, "licence": "CC0-1.0"}
    (seed,) = load_jsonl(write({**row, "source": "us"}), store)
    assert (seed.kind, seed.split, seed.facts) == (SeedKind.BENIGN, Split.VAL, ("a red square",))
    assert (seed.reference, seed.borderline, seed.source, seed.licence) == ("A square.", True, "us", "CC0-1.0")
    assert [ref.name for ref in seed.images] == ["a.png", "b.png"]


def test_blank_lines_and_a_byte_order_mark_are_skipped(write: Write, store: ImageStore) -> None:
    first, second = json.dumps(ROW).encode(), json.dumps({**ROW, "id": "s2"}).encode()
    path = write(b"\xef\xbb\xbf" + first, "", "  ", second)
    assert [seed.id for seed in load_jsonl(path, store)] == ["s1", "s2"]


def test_absolute_paths_and_wider_roots(write: Write, store: ImageStore, folder: Path) -> None:
    outside = folder.parent / "c.png"
    outside.write_bytes(picture("green"))
    assert len(load_jsonl(write({**ROW, "image": str(folder / "a.png")}), store)) == 1
    for name in (str(outside), "../c.png"):
        assert len(load_jsonl(write({**ROW, "image": name}), store, root=folder.parent)) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", r"seeds.jsonl:2: not JSON"),
        ("[1, 2]", r"seeds.jsonl:2: not a JSON object"),
        ({**ROW, "id": "s1"}, r"seeds.jsonl:2: field 'id': 's1' stands twice: it is already taken by line 1"),
        (
            {**ROW, "id": "s2", "qestion": "x"},
            r"seeds.jsonl:2: field 'qestion': unknown key \(known keys: id, question,",
        ),
        ({"id": "s2", "category": "c", "image": "a.png"}, r"seeds.jsonl:2: field 'question': Field required"),
        ({**ROW, "id": "s2", "question": "  "}, r"seeds.jsonl:2: field 'question': String should match"),
        ({**ROW, "id": 2}, r"seeds.jsonl:2: field 'id': Input should be a valid string"),
        ({**ROW, "id": "s2", "kind": "bad"}, r"seeds.jsonl:2: field 'kind': Input should be 'harmful' or 'benign'"),
        (
            {**ROW, "id": "s2", "split": "dev"},
            r"seeds.jsonl:2: field 'split': Input should be 'train', 'val' or 'test'",
        ),
        ({**ROW, "id": "s2", "borderline": "yes"}, r"seeds.jsonl:2: field 'borderline'"),
        ({**ROW, "id": "s2", "image": None}, r"seeds.jsonl:2: field 'image': give either 'image' or 'images'"),
        ({**ROW, "id": "s2", "images": ["a.png"]}, r"seeds.jsonl:2: field 'image': give either 'image' or 'images'"),
        ({**ROW, "id": "s2", "image": None, "images": []}, r"seeds.jsonl:2: field 'images'"),
        (b"\xff\xfe", r"seeds.jsonl:2: not UTF-8 text"),
    ],
)
def test_a_wrong_line_is_named(write: Write, store: ImageStore, line: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_jsonl(write(ROW, line), store)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.png", r"seeds.jsonl:1: field 'image': 'gone.png': no such image file \(paths are relative"),
        (".", r"field 'image': '.': no such image file"),
        ("../secret.png", r"field 'image': '../secret.png': lies outside .*mine"),
        ("/etc/hostname", r"field 'image': '/etc/hostname': lies outside"),
        ("link.png", r"field 'image': 'link.png': lies outside"),
        ("loop.png", r"field 'image': 'loop.png'"),
        ("a\x00.png", r"field 'image': 'a\\x00.png': .*null"),
        ("n" * 5000, r"field 'image': 'nnn.*File name too long"),
        ("empty.png", r"field 'image': 'empty.png': the image is empty"),
        ("text.png", r"field 'image': 'text.png': not a readable image"),
        ("cut.png", r"field 'image': 'cut.png': not a readable image"),
    ],
)
def test_a_wrong_image_is_named(write: Write, store: ImageStore, folder: Path, name: str, message: str) -> None:
    (folder.parent / "secret.png").write_bytes(picture())
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not an image")
    (folder / "cut.png").write_bytes(picture()[:-30])
    with pytest.raises(ImageError, match=message):
        load_jsonl(write({**ROW, "image": name}), store)


def test_the_second_of_several_images_is_named(write: Write, store: ImageStore) -> None:
    row = {key: value for key, value in ROW.items() if key != "image"}
    with pytest.raises(ImageError, match=r"seeds.jsonl:1: field 'images.1': 'b.png'"):
        load_jsonl(write({**row, "images": ["a.png", "b.png"]}), store)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(write: Write, store: ImageStore, folder: Path) -> None:
    def chunk(tag: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    assert MAX_PIXELS < 60_000 * 60_000
    (folder / "bomb.png").write_bytes(bomb)
    with pytest.raises(ImageError, match=r"field 'image': 'bomb.png'.*pixels"):
        load_jsonl(write({**ROW, "image": "bomb.png"}), store)


def test_a_huge_file_is_refused_before_it_is_read(
    write: Write, store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", 10)
    with pytest.raises(ImageError, match=r"field 'image': 'a.png': larger than"):
        load_jsonl(write(ROW), store)


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_is_an_error(folder: Path, store: ImageStore, content: bytes) -> None:
    path = folder / "none.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"none.jsonl: there are no seeds in the file"):
        load_jsonl(path, store)


def test_a_missing_file_or_a_folder_is_an_error(folder: Path, store: ImageStore) -> None:
    with pytest.raises(DataError, match=r"gone.jsonl: No such file or directory"):
        load_jsonl(folder / "gone.jsonl", store)
    with pytest.raises(DataError, match=r"Is a directory"):
        load_jsonl(folder, store)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=80), st.dictionaries(st.sampled_from([*ROW, "kind", "x"]), st.text(max_size=6))))
def test_any_garbage_gives_seeds_or_one_of_our_errors(write: Write, store: ImageStore, junk: Any) -> None:
    line = junk if isinstance(junk, bytes) else json.dumps(junk)
    try:
        seeds = load_jsonl(write(ROW, line), store)
    except SaferSteerError as error:
        assert "seeds.jsonl" in str(error)
    else:
        assert seeds[0].id == "s1"
