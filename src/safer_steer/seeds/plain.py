"""Users' own seeds: a JSON Lines file with image files beside it, or a parquet file with the images inside.

    {"id": "s1", "question": "What is on the sign?", "category": "fraud", "image": "pictures/sign.png"}

`kind` is `harmful` unless it says `benign`; `images` may stand for `image` where a seed has several. Optional:
`split` (`train`, `val`, `test`), `facts`, `reference`, `borderline`, `source`, `licence`. Nothing is guessed: an
unknown key, a second seed of one id, or an image that cannot be read is an error that names file, line and field.
In parquet `id` is optional too (the content's hash stands in), and an image may be bytes, `{bytes, path}` or a path.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from safer_steer.dialogue import ImageRef, Record, Seed, SeedKind, Split, stable_id
from safer_steer.errors import DataError
from safer_steer.formats import Reading, Row, jsonl_rows, parquet_rows
from safer_steer.image_store import ImageStore

Text = Annotated[str, Field(min_length=1, pattern=r"\S")]


class _Line(Record):
    id: Text
    question: Text
    category: Text
    kind: SeedKind = SeedKind.HARMFUL
    split: Split | None = None
    facts: tuple[str, ...] = ()
    reference: str | None = None
    borderline: bool = False
    source: Text = "user"
    licence: Text = "unknown"


_WORDS = tuple(_Line.model_fields)
KEYS = (*_WORDS[:3], "image", "images", *_WORDS[3:])
_JSON: TypeAdapter[Any] = TypeAdapter(Any)


def load_jsonl(path: Path, images: ImageStore, *, root: Path | None = None) -> tuple[Seed, ...]:
    """Read the seeds of `path` and put their images into `images`.

    Image paths are relative to the file's folder, or absolute; either way, and through any link, they must lie inside
    `root` (by default that same folder). Lines of white space are skipped. Raises `DataError`, or its kind
    `ImageError`, naming file, line and field; nothing is returned then, though images read before stay in the store.
    """
    return tuple(jsonl_seeds(Reading(path, images, root=root)))


def jsonl_seeds(reading: Reading) -> Iterator[Seed]:
    """The seeds of a JSON Lines file."""

    def build(row: Row) -> Iterator[Seed]:
        yield _seed(reading, row)

    return _some(reading, reading.each(jsonl_rows(reading.path), build, id_field="id"))


def parquet_seeds(reading: Reading) -> Iterator[Seed]:
    """The seeds of a parquet file; raises `DataError` for a missing or unknown column."""

    def build(row: Row) -> Iterator[Seed]:
        row.values = {key: value for key, value in row.values.items() if value is not None}  # a cell without a value
        row.require(("question", "category"))
        yield _seed(reading, row)

    optional = [key for key in KEYS if key not in ("question", "category")]
    rows = parquet_rows(reading.path, ("question", "category"), optional, closed="a parquet of seeds")
    return _some(reading, reading.each(rows, build, id_field="id"))


def _some(reading: Reading, seeds: Iterator[Seed]) -> Iterator[Seed]:
    """`seeds`, of which there must be one."""
    empty = True
    for seed in seeds:
        empty = False
        yield seed
    if empty and not reading.skips.rows:
        raise DataError("there are no seeds in the file", file=reading.path, hint="write one JSON object a line")


def _seed(reading: Reading, row: Row) -> Seed:
    if unknown := [key for key in row.values if key not in KEYS]:
        raise row.error("unknown key", unknown[0], hint=f"known keys: {', '.join(KEYS)}")
    words = {key: value for key, value in row.values.items() if key in _WORDS}
    if row.line is None and "id" not in words:  # parquet; its images tell seeds with the same question apart
        images = _images(reading, row)
        words["id"] = f"seed-{stable_id(words['question'], *(image.sha256 for image in images))}"
        return _whole(_line(words, row), images)
    return _whole(_line(words, row), _images(reading, row))


def _whole(line: _Line, images: tuple[ImageRef, ...]) -> Seed:
    return Seed(images=images, **{name: getattr(line, name) for name in _WORDS})


def _line(words: dict[str, Any], row: Row) -> _Line:
    try:
        return _Line.from_json(_JSON.dump_json(words))  # through JSON, where a list stands for a tuple
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or None
        raise row.error(first["msg"], field) from error


def _images(reading: Reading, row: Row) -> tuple[ImageRef, ...]:
    one, several = row.values.get("image"), row.values.get("images")
    if (one is None) == (several is None):
        raise row.error("give either 'image' or 'images'", "image")
    if several is None:
        return (_image(reading, row, one, "image"),)
    if not isinstance(several, list) or not several:
        raise row.error("expected a list of at least one image", "images")
    return tuple(_image(reading, row, each, f"images.{index}") for index, each in enumerate(several))


def _image(reading: Reading, row: Row, value: Any, field: str) -> ImageRef:
    bases = reading.bases(row)
    if row.line is not None:
        return reading.images.file(row, value, field, bases=bases)
    return reading.images.cell(row, value, field, bases=bases)
