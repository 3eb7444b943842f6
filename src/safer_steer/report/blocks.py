"""What the page carries besides its markup: the index, the transcripts in gzipped chunks, and each image once.

Everything is base64 in `<script type="text/plain">` elements, which a browser neither runs nor lays out; base64 has
no character that could end the element. The page's script unpacks a chunk when one of its dialogues is opened.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import orjson

from safer_steer.image_store import ImageStore
from safer_steer.report.thumbnails import thumbnails
from safer_steer.report.transcripts import Entry

DIALOGUES_PER_CHUNK = 16
IMAGES_PER_BLOCK = 32
LEVEL = 3
"""zlib's level: 6 makes the page a twelfth smaller and takes twice as long."""
THREADS = 2
"""Decoding images and compressing release the interpreter's lock."""

SIZES = ((200, 512, "webp"), (1000, 320, "jpeg"), (10**9, 208, "jpeg"))
"""The longer side of an embedded image in pixels and its format (JPEG takes half the time), by how many there are."""


def blocks(found: Sequence[Entry], columns: Sequence[str], store: ImageStore) -> list[bytes]:
    """The elements, ready to stand in the page: `index`, `c0 …` (dialogues), `i0 …` (images)."""
    refs = {ref.sha256: ref for entry in found for ref in entry.any.images}
    ordered = [refs[digest] for digest in sorted(refs)]
    numbers = {ref.sha256: number for number, ref in enumerate(ordered)}
    size, kind = next((pixels, kind) for limit, pixels, kind in SIZES if len(ordered) <= limit)

    def chunk(start: int) -> bytes:
        return pack(b"\n".join(entry.line(numbers) for entry in found[start : start + DIALOGUES_PER_CHUNK]))

    with ThreadPoolExecutor(THREADS) as pool:
        pictures = thumbnails(ordered, store, size, kind, pool)
        packed = [pack(index(found, columns)), *pool.map(chunk, range(0, len(found), DIALOGUES_PER_CHUNK))]
    names = ["index", *(f"c{number}" for number in range(len(packed) - 1))]
    images = [
        element(f"i{number}", b"\n".join(pictures[start : start + IMAGES_PER_BLOCK]))
        for number, start in enumerate(range(0, len(pictures), IMAGES_PER_BLOCK))
    ]
    return [*(element(name, body) for name, body in zip(names, packed, strict=True)), *images]


def element(name: str, body: bytes) -> bytes:
    return f'<script type="text/plain" id="{name}">'.encode() + body + b"</script>\n"


def pack(data: bytes) -> bytes:
    """gzip, then base64; the same bytes for the same data."""
    squeezer = zlib.compressobj(LEVEL, zlib.DEFLATED, 31)
    return base64.b64encode(squeezer.compress(data) + squeezer.flush())


def index(found: Sequence[Entry], columns: Sequence[str]) -> bytes:
    """What the list, the filters and the links need: names once, then a row of numbers a dialogue."""
    tables: dict[str, list[str]] = {}
    for name, values in {
        "protocols": (entry.protocol for entry in found),
        "kinds": (entry.any.kind for entry in found),
        "categories": (entry.any.category for entry in found),
        "strategies": (entry.any.strategy for entry in found),
        "suites": (entry.any.suite for entry in found),
        "attacks": (attack for entry in found for told in entry.models if told is not None for attack in told.attacks),
    }.items():
        tables[name] = _distinct(values)
    places = {name: {value: number for number, value in enumerate(values)} for name, values in tables.items()}

    def number(table: str, value: str | None) -> int | None:
        return None if value is None else places[table][value]

    rows = [
        [
            entry.anchor,
            number("protocols", entry.protocol),
            number("kinds", entry.any.kind),
            number("categories", entry.any.category),
            number("strategies", entry.any.strategy),
            number("suites", entry.any.suite),
            sorted({places["attacks"][a] for told in entry.models if told is not None for a in told.attacks}),
            entry.any.opening,
            [
                None if told is None else [told.strip, told.first_failure, told.broke_off, told.outcome.safety_pass]
                for told in entry.models
            ],
        ]
        for entry in found
    ]
    sizes = {"chunk": DIALOGUES_PER_CHUNK, "images": IMAGES_PER_BLOCK}
    return orjson.dumps({"models": list(columns), **tables, **sizes, "rows": rows})


def _distinct(values: Iterable[str | None]) -> list[str]:
    return sorted({value for value in values if value is not None})
