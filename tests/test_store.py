"""What lies on disk: whole or not at all, once, and found again after anything."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from safer_steer.dialogue import ImageRef, Record
from safer_steer.errors import ImageError, StorageError
from safer_steer.image_store import MAX_PIXELS, ImageStore
from safer_steer.measured import measure
from safer_steer.run_folder import RunFolder
from safer_steer.store import Journal, fingerprint, read_records, write_atomic, write_json, write_records

texts = st.text(st.characters(blacklist_categories=("Cs",)), max_size=40)
files = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Note(Record):
    key: str
    text: str = ""


def journal(path: Path) -> Journal[Note]:
    return Journal(path, Note, lambda note: note.key)


def png(width: int = 8, height: int = 6, colour: str = "red", kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(data, kind)
    return data.getvalue()


@files
@given(st.lists(texts, unique=True, max_size=8), st.integers(0, 10**6))
def test_a_journal_cut_anywhere_keeps_every_whole_line_and_goes_on(tmp_path: Path, keys: list[str], at: int) -> None:
    path = tmp_path / "journal.jsonl"
    path.unlink(missing_ok=True)
    with journal(path) as notes:
        for key in keys:
            notes.append(Note(key=key, text=key * 2))
    whole = path.read_bytes()
    cut = whole[: at % (len(whole) + 1)]
    path.write_bytes(cut)
    with journal(path) as notes:
        kept = [note.key for note in notes]
        assert kept == keys[: cut.count(b"\n")]
        for key in keys[len(kept) :]:
            assert key not in notes
            notes.append(Note(key=key, text=key * 2))
    assert path.read_bytes() == whole
    assert [note.text for note in read_records(path, Note)] == [key * 2 for key in keys]


def test_a_journal_holds_a_key_once(tmp_path: Path) -> None:
    with journal(tmp_path / "j.jsonl") as notes:
        notes.append(Note(key="a"))
        with pytest.raises(StorageError, match="'a' is already recorded"):
            notes.append(Note(key="a", text="again"))
        assert (len(notes), "a" in notes, "b" in notes) == (1, True, False)
    assert len((tmp_path / "j.jsonl").read_text().splitlines()) == 1


def test_every_record_is_on_disk_before_append_returns(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with journal(path) as notes:
        for number in range(3):
            notes.append(Note(key=str(number)))
            assert len(path.read_bytes().splitlines()) == number + 1


@pytest.mark.parametrize("line", ["{}", "nonsense", '{"key": 1}', '{"key": "b", "mood": "good"}', ""])
def test_a_foreign_line_names_file_and_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text(f'{{"key": "a"}}\n{line}\n')
    with pytest.raises(StorageError) as raised:
        journal(path)
    assert f"{path}:2" in str(raised.value)


class Full:
    """A file on a disk that takes `room` more bytes."""

    def __init__(self, file: io.BufferedRandom, room: int) -> None:
        self._file, self._room = file, room

    def write(self, data: bytes) -> int:
        self._file.write(data[: self._room])
        if len(data) > self._room:
            self._file.flush()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(data)

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


@files
@given(st.integers(0, 200))
def test_a_full_disk_leaves_no_half_line_and_the_same_record_fits_later(tmp_path: Path, room: int) -> None:
    path = tmp_path / "j.jsonl"
    path.unlink(missing_ok=True)
    with journal(path) as notes:
        notes.append(Note(key="a"))
        before = path.read_bytes()
        notes._file = Full(notes._file, room)
        long = Note(key="b", text="x" * 300)
        with pytest.raises(StorageError, match=r"No space left.*free some space"):
            notes.append(long)
        assert path.read_bytes() == before and "b" not in notes
        notes.append(long)
    assert [note.key for note in read_records(path, Note)] == ["a", "b"]


@files
@given(st.lists(texts, max_size=6))
def test_records_come_back_as_they_were(tmp_path: Path, keys: list[str]) -> None:
    notes = [Note(key=key, text=f"{key}\n\u2028\x85 <b>") for key in keys]
    assert write_records(tmp_path / "r.jsonl", notes) == len(notes)
    assert list(read_records(tmp_path / "r.jsonl", Note)) == notes


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_atomic(path, "old")

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="free some space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append(os.fstat(handle).st_size), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("named"), replace(*names)))
    write_atomic(tmp_path / "file", "four")
    assert done == [4, "named"]


def test_json_without_a_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"rate": float("nan")})
    assert not list(tmp_path.iterdir())


@files
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP"]))
def test_an_image_comes_back_byte_for_byte(tmp_path: Path, width: int, height: int, kind: str) -> None:
    store, data = ImageStore(tmp_path), png(width, height, kind=kind)
    ref = store.put(data, name="a")
    assert (ref.width, ref.height, ref.media_type) == (width, height, f"image/{kind.lower()}")
    assert store.read(ref) == data
    assert store.open(ref).size == (width, height)
    assert store.put(data, name="a") == ref


def test_an_image_that_is_none_is_refused_and_kept_nowhere(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images")
    whole = png(64, 64)
    for data in (b"", b"hello", whole[:40], whole[: len(whole) // 2], b"\x89PNG\r\n\x1a\n" + b"\0" * 50):
        with pytest.raises(ImageError) as raised:
            store.put(data, where="here.png")
        assert "here.png" in str(raised.value)
    assert not store.root.exists()


def test_an_image_with_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    data = io.BytesIO()
    Image.new("1", (MAX_PIXELS // 1000 + 1, 1000)).save(data, "PNG")
    with pytest.raises(ImageError, match="pixels"):
        ImageStore(tmp_path).put(data.getvalue())


def test_a_lost_or_changed_image_is_an_error(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    ref = store.put(png())
    store.path(ref).write_bytes(png(colour="blue"))
    with pytest.raises(ImageError, match="do not match"):
        store.read(ref)
    store.path(ref).unlink()
    with pytest.raises(ImageError, match="lost"):
        store.open(ref)
    with pytest.raises(ImageError):
        store.read(ImageRef(sha256="0" * 64, media_type="image/png", width=1, height=1))


def test_a_stage_belongs_to_the_inputs_it_was_begun_with(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.claim("sft", "one")
    run.claim("sft", "one")
    with pytest.raises(StorageError, match="another recipe") as raised:
        run.claim("sft", "two")
    assert str(tmp_path / "sft") in str(raised.value)
    assert run.finished("sft") is None
    run.finish("sft", {"steps": 2})
    assert RunFolder(tmp_path).finished("sft") == {"steps": 2}


@pytest.mark.parametrize("content", ["", "[1]", "{", "null"])
def test_a_stage_record_that_is_none_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "sft" / "stage.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(StorageError) as raised:
        RunFolder(tmp_path).finished("sft")
    assert str(path) in str(raised.value)


def test_a_run_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(StorageError, match=str(tmp_path / "run")):
        RunFolder(tmp_path / "run").stage("sft")


@given(st.dictionaries(st.text(max_size=5), st.integers(), max_size=5))
def test_a_fingerprint_does_not_depend_on_the_order_of_keys(values: dict[str, int]) -> None:
    assert fingerprint(values) == fingerprint(dict(reversed(values.items())))
    assert fingerprint(values) != fingerprint(values, 0)
    assert len(fingerprint(json.dumps(values))) == 16


def test_a_stage_s_figures_stand_in_its_first_record_already(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with measure() as measured, run.noting("sft", measured.figures):
        run.finish("sft", {"steps": 3})
        run.finish("other", {})
    found = run.finished("sft")
    assert found is not None and found["steps"] == 3 and found["seconds"] >= 0 and found["peak_mb"] > 1
    assert measured.figures()["seconds"] >= found["seconds"] and run.finished("other") == {}
    run.finish("sft", {"steps": 3})
    assert run.finished("sft") == {"steps": 3}
