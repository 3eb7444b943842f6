"""Files as rows: typed access, places in errors, memory, and garbage that must never get through or crash."""

from __future__ import annotations

import io
import json
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from released import cell, picture, put, put_json, put_jsonl, put_parquet
from safer_steer.dialogue import Record, Split
from safer_steer.errors import DataError, ImageError
from safer_steer.formats import Reading, Row, Skips, csv_rows, find, json_rows, jsonl_rows, parquet_rows, split_files
from safer_steer.formats import images as images_module
from safer_steer.image_store import MAX_PIXELS, ImageStore, inspect_image

FILE = Path("data.json")


def said(work: Callable[[], Any]) -> str:
    with pytest.raises(DataError) as caught:
        work()
    return str(caught.value)


# --- rows -------------------------------------------------------------------------------------------------------


def test_a_row_gives_what_it_holds() -> None:
    values = {
        "t": " text ", "n": 7, "yes": True, "csv": "False", "list": ["a ", "b"], "in": {"x": "y"}, "rows": [{"r": "s"}],
        "blank": "  ", "null": None,
    }  # fmt: skip
    row = Row(values, FILE, row=3)
    assert (row.text("t"), row.identity("n"), row.integer("n"), row.truth("yes"), row.truth("csv")) == (
        "text", "7", 7, True, False,
    )  # fmt: skip
    assert (row.texts("list"), row.inner("in").text("x"), next(row.each("rows")).text("r")) == (["a", "b"], "y", "s")
    assert [row.optional_text(key) for key in ("t", "blank", "null", "gone")] == ["text", None, None, None]
    assert (row.has("t"), row.has("null"), row.place, Row({}, FILE, line=2).place) == (True, False, "row 3", "line 2")


@pytest.mark.parametrize(
    ("ask", "what"),
    [
        (lambda r: r.text("gone"), "data.json, row 3: field 'gone': is missing"),
        (lambda r: r.text("n"), "data.json, row 3: field 'n': expected a non-empty string, got 7"),
        (lambda r: r.text("half"), "data.json, row 3: field 'half': not text: surrogates not allowed"),
        (lambda r: r.identity("rows"), "data.json, row 3: field 'rows': expected a non-empty string or an integer"),
        (lambda r: r.integer("yes"), "data.json, row 3: field 'yes': expected an integer, got True"),
        (lambda r: r.truth("n"), "data.json, row 3: field 'n': expected true or false, got 7"),
        (lambda r: r.texts("mixed"), "data.json, row 3: field 'mixed[1]': expected a non-empty string, got 2"),
        (lambda r: r.texts("empty"), "data.json, row 3: field 'empty': expected a list of strings, got []"),
        (lambda r: r.inner("n"), "data.json, row 3: field 'n': expected an object, got 7"),
        (lambda r: list(r.each("n")), "data.json, row 3: field 'n': expected a list, got 7"),
        (lambda r: list(r.each("mixed")), "data.json, row 3: field 'mixed[0]': expected an object, got 'a'"),
        (lambda r: next(r.each("rows")).text("q"), "data.json, row 3: field 'rows[0].q': is missing"),
        (lambda r: next(r.each("rows")).inner("in").text("y"), "data.json, row 3: field 'rows[0].in.y': is missing"),
        (lambda r: r.require(["n", "gone"]), "data.json, row 3: field 'gone': is missing"),
        (lambda r: r.only(["n"], "X"), "data.json, row 3: field 'empty': is not a X field (known keys: n)"),
    ],
)  # fmt: skip
def test_a_row_says_what_it_does_not_hold(ask: Callable[[Row], Any], what: str) -> None:
    values = {
        "n": 7, "yes": True, "half": "\ud800", "mixed": ["a", 2], "empty": [], "rows": [{"in": {}}],
    }  # fmt: skip
    assert said(lambda: ask(Row(values, FILE, row=3))).startswith(what)


# --- sources ----------------------------------------------------------------------------------------------------


def test_lines_arrays_objects_and_csv_as_rows(tmp_path: Path) -> None:
    lines = put_jsonl(tmp_path / "a.jsonl", [{"x": 1}, "", "{", {"x": 2}])
    rows = list(jsonl_rows(lines))
    assert [row.line if isinstance(row, Row) else str(row)[-40:-12] for row in rows] == [1, str(rows[1])[-40:-12], 4]
    assert isinstance(rows[1], DataError)
    told = "not JSON: Expecting property name enclosed in double quotes, column 2 (one JSON object a line)"
    assert str(rows[1]) == f"{lines}:3: {told}"
    array = list(json_rows(put_json(tmp_path / "a.json", [{"x": 1}, 3])))
    assert isinstance(array[0], Row) and array[0].row == 1
    assert isinstance(array[1], DataError) and "a.json, row 2: not a JSON object" in str(array[1])
    table = list(json_rows(put_json(tmp_path / "b.json", {"k": {"x": 1}})))
    assert [row.number for row in table if isinstance(row, Row)] == ["k"]
    (tmp_path / "a.csv").write_text('\ufeffid,text\n1,"two\nlines"\n2\n3,a,b\n')
    one, two, three = csv_rows(tmp_path / "a.csv", ["id"])
    assert isinstance(one, Row) and one.values == {"id": "1", "text": "two\nlines"}
    for wrong, number in ((two, 2), (three, 3)):
        assert str(wrong) == f"{tmp_path}/a.csv, row {number}: has not the 2 cells of the header"


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.json", b"", "not JSON"),
        ("a.json", b"7", "expected a JSON array or object of rows"),
        ("a.json", b"\xff", "not UTF-8 text"),
        ("a.json", b"[" * 100_000, "not JSON"),
        ("a.csv", b"", "field 'id': the column is missing (the file is empty)"),
        ("a.csv", b"a,b\n1,2\n", "field 'id': the column is missing (the file has: a, b)"),
        ("a.csv", b'id\n"open', "not CSV"),
        ("a.csv", b"id\n\xff\n", "not UTF-8 text"),
        ("a.parquet", b"", "not a parquet file"),
        ("a.parquet", b"PAR1 and so on", "not a parquet file"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole(tmp_path: Path, name: str, content: bytes, what: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    read = {"a.json": json_rows, "a.csv": lambda p: csv_rows(p, ["id"]), "a.parquet": lambda p: parquet_rows(p, ["id"])}
    message = said(lambda: list(read[name](path)))  # type: ignore[operator]
    assert message.startswith(str(path)) and what in message
    missing = tmp_path / f"gone-{name}"
    assert said(lambda: list(read[name](missing))).startswith(str(missing))  # type: ignore[operator]


def test_a_parquet_that_breaks_off_says_after_which_row(tmp_path: Path) -> None:
    random.seed(0)
    rows = [{"id": i, "data": random.randbytes(60_000)} for i in range(100)]
    path = put_parquet(tmp_path / "a.parquet", rows)
    content = bytearray(path.read_bytes())
    content[3_000_000:3_400_000] = bytes(400_000)
    path.write_bytes(content)
    message = said(lambda: list(parquet_rows(path, ["id", "data"])))
    assert f"{path}: cannot be read beyond row " in message


def test_memory_does_not_grow_with_the_rows_of_a_parquet(tmp_path: Path) -> None:
    path = tmp_path / "large.parquet"
    random.seed(0)
    data = [random.randbytes(100_000) for _ in range(400)]
    pq.write_table(pa.table({"image": data, "other": data}), path, row_group_size=50)
    del data
    before, most, number = pa.total_allocated_bytes(), 0, 0
    for row in parquet_rows(path, ["image"]):
        number += 1
        assert isinstance(row, Row) and len(row.values["image"]) == 100_000
        most = max(most, pa.total_allocated_bytes() - before)
    assert number == 400 and path.stat().st_size > 40e6
    assert most < 16e6


garbage = st.one_of(st.binary(max_size=200), st.text(max_size=80).map(str.encode))


@settings(max_examples=60)
@given(garbage)
def test_any_file_gives_rows_or_one_of_our_errors(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "file"
    path.write_bytes(content)
    for read in (jsonl_rows, json_rows, lambda p: csv_rows(p, ["id"]), lambda p: parquet_rows(p, ["id"])):
        try:
            rows = list(read(path))  # type: ignore[operator]
        except DataError as error:
            assert str(path) in str(error)
        else:
            assert all(isinstance(row, Row | DataError) for row in rows)


def test_files_are_found_by_the_first_pattern_that_finds_any(tmp_path: Path) -> None:
    put(tmp_path, "a/x.png", "b/x.png", "y.png")
    assert [p.name for p in find(tmp_path, "none*", "*/x.png", needs="n")] == ["x.png", "x.png"]
    assert find(tmp_path / "y.png", "none", needs="n") == [tmp_path / "y.png"]
    assert said(lambda: find(tmp_path, "z", needs="this")) == f"{tmp_path}: holds no z (it needs this)"


def test_a_file_belongs_to_the_split_its_name_says(tmp_path: Path) -> None:
    put_parquet(tmp_path / "train-1.parquet", [{"x": 1}])
    other = put_parquet(tmp_path / "mine.parquet", [{"x": 1}])
    globs = {Split.TRAIN: ("**/train*.parquet",), Split.TEST: ("test*.parquet",)}
    assert split_files(tmp_path, globs, None, "n") == [(tmp_path / "train-1.parquet", Split.TRAIN)]
    assert split_files(tmp_path / "train-1.parquet", globs, None, "n")[0][1] is Split.TRAIN
    assert split_files(other, globs, Split.TEST, "n") == [(other, Split.TEST)]
    assert split_files(other, globs, None, "n") == [(other, None)]
    assert "holds no test*.parquet" in said(lambda: split_files(tmp_path, globs, Split.TEST, "n"))


# --- images -----------------------------------------------------------------------------------------------------


def bomb(side: int) -> bytes:
    def chunk(tag: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [6_400, 10_000, 13_000, 60_000])
def test_a_decompression_bomb_of_any_size_is_refused_undecoded_and_without_a_warning(side: int) -> None:
    assert side * side > MAX_PIXELS
    with pytest.raises(ImageError, match="pixels"):
        inspect_image(bomb(side))


@pytest.mark.parametrize("kind", ["TIFF", "ICO", "TGA", "PPM"])
def test_kinds_of_image_that_model_servers_do_not_take_are_refused(kind: str) -> None:
    with pytest.raises(ImageError, match="neither PNG, JPEG, WEBP, GIF, BMP"):
        inspect_image(picture(kind=kind))


def test_a_camera_jpeg_of_several_pictures_is_a_jpeg() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6)).save(buffer, "MPO", save_all=True, append_images=[Image.new("RGB", (8, 6))])
    assert inspect_image(buffer.getvalue()).media_type == "image/jpeg"


@settings(max_examples=150)
@given(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP"]), st.data())
def test_a_damaged_image_is_an_image_or_an_image_error(kind: str, draw: st.DataObject) -> None:
    data = bytearray(picture(7, kind))
    for _ in range(draw.draw(st.integers(1, 6))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    damaged = bytes(data[: draw.draw(st.integers(0, len(data)))])
    try:
        inspect_image(damaged)
    except ImageError as error:
        assert str(error)


class Shown(Record):
    """What the readings below make of a row."""

    id: str
    sha256: str


def reading(folder: Path, rows: list[Any], **more: Any) -> tuple[Reading, list[Shown]]:
    path = put_jsonl(folder / "x.jsonl", rows)
    source = Reading(path, ImageStore(folder.parent / "store"), **more)

    def build(row: Row) -> list[Shown]:
        return [Shown(id=row.identity("id"), sha256=source.image(row, "image", "sub").sha256)]

    return source, list(source.each(jsonl_rows(path), build, id_field="id"))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("gone.png", "'gone.png': no such image file (paths are relative to "),
        ("../secret.png", "'../secret.png': lies outside the folder "),
        ("link.png", "'link.png': lies outside the folder "),
        ("linked/secret.png", "'linked/secret.png': lies outside the folder "),
        ("/etc/hostname", "'/etc/hostname': lies outside the folder "),
        ("loop.png", "'loop.png': "),
        ("a\0b", "'a\\x00b': embedded null "),
        ("n" * 5000, "File name too long"),
        ("empty.png", "'empty.png': the image is empty"),
        ("text.png", "'text.png': not a readable image"),
        ("bomb.png", "'bomb.png': 10000x10000 pixels, more than the 40000000 allowed"),
        (".", "'.': no such image file"),
        (7, "expected a path, got 7"),
        ("", "expected a path, got ''"),
    ],
)
def test_a_wrong_image_names_file_line_and_field(tmp_path: Path, name: object, what: str) -> None:
    folder = tmp_path / "data"
    put(folder, "a.png", "sub/b.png")
    (tmp_path / "secret.png").write_bytes(picture())
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("not an image")
    (folder / "bomb.png").write_bytes(bomb(10_000))
    rows = [{"id": "1", "image": "a.png"}, {"id": "2", "image": name}, {"id": "3", "image": "b.png"}]
    message = said(lambda: reading(folder, rows))
    assert message.startswith(f"{folder}/x.jsonl:2: field 'image': ") and what in message and len(message) < 700
    source, found = reading(folder, rows, skip_bad_rows=True)
    assert [shown.id for shown in found] == ["1", "3"]
    assert source.skips == Skips(rows=1, first=(message,))


def test_a_link_that_stays_in_the_folder_is_followed(tmp_path: Path) -> None:
    put(tmp_path / "data", "a.png")
    (tmp_path / "data" / "b.png").symlink_to("a.png")
    _, found = reading(tmp_path / "data", [{"id": "1", "image": "a.png"}, {"id": "2", "image": "b.png"}])
    assert found[0].sha256 == found[1].sha256


def test_a_huge_image_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_module, "MAX_IMAGE_BYTES", 10)
    put(tmp_path / "data", "a.png")
    assert "'a.png': larger than" in said(lambda: reading(tmp_path / "data", [{"id": "1", "image": "a.png"}]))
    row = Row({"image": cell()}, FILE, row=1)
    source = Reading(tmp_path / "data", ImageStore(tmp_path / "store"))
    assert said(lambda: source.cell(row, "image")).startswith("data.json, row 1: field 'image': larger than")


def test_many_skipped_rows_are_all_counted_and_the_first_are_told(tmp_path: Path) -> None:
    put(tmp_path / "data", "a.png")
    rows = [{"id": "1", "image": "a.png"}, *["no"] * 50, {"id": "1", "image": "a.png"}]
    source, found = reading(tmp_path / "data", rows, skip_bad_rows=True)
    assert len(found) == 1 and source.skips.rows == 51 and len(source.skips.first) == 20
    assert Skips.from_json(json.dumps(source.skips.model_dump(mode="json"))) == source.skips
