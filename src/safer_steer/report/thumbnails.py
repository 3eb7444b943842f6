"""Small copies of a report's images, as lines of the page; made once and kept beside the images.

Decoding is what a large report spends most of its time on, and the same images are shown again by the next model's
report, by the run's and by a comparison. The file is a cache: it may be deleted at any time.
"""

from __future__ import annotations

import base64
import contextlib
import io
import string
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

from PIL import Image

from safer_steer.dialogue import ImageRef
from safer_steer.errors import ImageError, StorageError
from safer_steer.image_store import ImageStore
from safer_steer.store import write_stream

RECIPE = 1
"""Raise when `thumbnail` makes other bytes, so that older files are not read."""
LOST = b"0 0 lost "
_ALLOWED = f"{string.ascii_letters}{string.digits}+/= ".encode()
"""The characters of a line: what stands in the page must not be able to end the element it stands in."""


def thumbnails(refs: Sequence[ImageRef], store: ImageStore, size: int, kind: str, pool: Executor) -> list[bytes]:
    """A line for each of `refs`; those of a store that is one folder are kept there for the next report."""
    known: dict[str, bytes] = {}
    for root in store.roots:
        known |= _kept(root / _name(size, kind))
    missing = [ref for ref in refs if ref.sha256 not in known]
    made = dict(
        zip((r.sha256 for r in missing), pool.map(lambda r: thumbnail(r, store, size, kind), missing), strict=True)
    )
    fresh = {digest: line for digest, line in made.items() if line != LOST}
    if fresh and len(store.roots) == 1:
        with contextlib.suppress(StorageError):  # a folder that may only be read: then the next report takes as long
            write_stream(store.roots[0] / _name(size, kind), _lines(known | fresh))
    found = known | made
    return [found[ref.sha256] for ref in refs]


def _name(size: int, kind: str) -> str:
    return f".small-{size}-{kind}-{RECIPE}"


def _kept(path: Path) -> dict[str, bytes]:
    """The lines of an earlier report by their image; one that does not look like ours is not read."""
    found = {}
    with contextlib.suppress(OSError), path.open("rb") as lines:
        for line in lines:
            digest, _, rest = line.partition(b" ")
            if len(digest) == 64 and rest.endswith(b"\n") and not rest[:-1].translate(None, _ALLOWED):
                found[digest.decode("ascii", "replace")] = rest[:-1]
    return found


def _lines(known: Mapping[str, bytes]) -> Iterator[bytes]:
    return (digest.encode() + b" " + known[digest] + b"\n" for digest in sorted(known))


def thumbnail(ref: ImageRef, store: ImageStore, size: int, kind: str) -> bytes:
    """`width height format base64` of a small copy; an image the store lost becomes `LOST`."""
    try:
        data = store.read(ref)
        with Image.open(io.BytesIO(data)) as image:
            image.draft("RGB", (size, size))  # a JPEG decodes to a fraction of its size at once
            small = image.convert("RGB")
            small.thumbnail((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0)
    except (ImageError, OSError, ValueError, SyntaxError):
        return LOST
    buffer = io.BytesIO()
    small.save(buffer, format=kind.upper(), quality=78, **({"method": 1} if kind == "webp" else {}))
    return f"{small.width} {small.height} {kind} ".encode() + base64.b64encode(buffer.getvalue())
