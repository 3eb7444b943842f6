"""Users' own seeds: a plain JSONL file, one seed a line, with image files beside it.

    {"id": "s1", "question": "What is on the sign?", "category": "fraud", "image": "pictures/sign.png"}

`kind` is `harmful` unless it says `benign`; `images` may stand for `image` where a seed has several. Optional:
`split` (`train`, `val`, `test`), `facts`, `reference`, `borderline`, `source`, `licence`. Nothing is guessed: an
unknown key, a second seed of one id, or an image that cannot be read is an error that names file, line and field.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from safer_steer.dialogue import ImageRef, Record, Seed, SeedKind, Split
from safer_steer.errors import DataError, ImageError
from safer_steer.store import ImageStore

MAX_IMAGE_BYTES = 64 * 2**20
"""A larger image file is refused before it is read."""

Text = Annotated[str, Field(min_length=1, pattern=r"\S")]
Paths = Annotated[tuple[Text, ...], Field(min_length=1)]


class _Line(Record):
    id: Text
    question: Text
    category: Text
    kind: SeedKind = SeedKind.HARMFUL
    image: Text | None = None
    images: Paths | None = None
    split: Split | None = None
    facts: tuple[str, ...] = ()
    reference: str | None = None
    borderline: bool = False
    source: Text = "user"
    licence: Text = "unknown"


def load_jsonl(path: Path, images: ImageStore, *, root: Path | None = None) -> tuple[Seed, ...]:
    """Read the seeds of `path` and put their images into `images`.

    Image paths are relative to the file's folder, or absolute; either way, and through any link, they must lie inside
    `root` (by default that same folder). Lines of white space are skipped. Raises `DataError`, or its kind
    `ImageError`, naming file, line and field; nothing is returned then, though images read before stay in the store.
    """
    allowed = (path.parent if root is None else root).resolve()
    seeds: list[Seed] = []
    first_line: dict[str, int] = {}
    for number, line in _lines(path):
        entry = _parse(line, path, number)
        if entry.id in first_line:
            what = f"the id '{entry.id}' is already taken by line {first_line[entry.id]}"
            raise DataError(what, file=path, line=number, field="id")
        first_line[entry.id] = number
        seeds.append(_seed(entry, path, number, allowed, images))
    if not seeds:
        raise DataError("there are no seeds in the file", file=path, hint="write one JSON object a line")
    return tuple(seeds)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines with something on them, numbered from 1; a byte order mark is dropped."""
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                except UnicodeDecodeError as error:
                    raise DataError(f"not UTF-8 text: {error.reason}", file=path, line=number) from error
                if line:
                    yield number, line
    except OSError as error:
        raise DataError(error.strerror or str(error), file=path, hint="check the path of the seed file") from error


def _parse(line: str, path: Path, number: int) -> _Line:
    try:
        entry = _Line.from_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or None
        unknown = first["type"] == "extra_forbidden"
        what = "unknown key" if unknown else first["msg"]
        hint = f"known keys: {', '.join(_Line.model_fields)}" if unknown else None
        raise DataError(what, file=path, line=number, field=field, hint=hint) from error
    if (entry.image is None) == (entry.images is None):
        raise DataError("give either 'image' or 'images'", file=path, line=number, field="image")
    return entry


def _seed(entry: _Line, path: Path, number: int, root: Path, store: ImageStore) -> Seed:
    if entry.images is not None:
        places = [(f"images.{index}", name) for index, name in enumerate(entry.images)]
    else:
        places = [("image", str(entry.image))]
    return Seed(
        id=entry.id,
        kind=entry.kind,
        category=entry.category,
        question=entry.question,
        images=tuple(_image(name, field, path, number, root, store) for field, name in places),
        split=entry.split,
        facts=entry.facts,
        reference=entry.reference,
        borderline=entry.borderline,
        source=entry.source,
        licence=entry.licence,
    )


def _image(name: str, field: str, path: Path, number: int, root: Path, store: ImageStore) -> ImageRef:
    def fault(what: str, hint: str | None = None) -> ImageError:
        return ImageError(f"{name!r}: {what}", file=path, line=number, field=field, hint=hint)

    try:
        place = (path.parent / name).resolve()
        if not place.is_relative_to(root):
            raise fault(f"lies outside {root}", hint="move the image there, or pass another root")
        if not place.is_file():
            raise fault("no such image file", hint="paths are relative to the seed file")
        if place.stat().st_size > MAX_IMAGE_BYTES:
            raise fault(f"larger than {MAX_IMAGE_BYTES // 2**20} MiB")
        data = place.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:  # unreadable, a NUL in the name, a loop of links
        raise fault(str(error)) from error
    try:
        return store.put(data, name=name)
    except ImageError as error:
        raise fault(error.what, hint=error.hint) from error
