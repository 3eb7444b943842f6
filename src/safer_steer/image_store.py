"""Images by the hash of their content, checked before they are kept."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from safer_steer.dialogue import ImageRef
from safer_steer.errors import ImageError
from safer_steer.store import write_atomic

MAX_PIXELS = 40_000_000
"""An image with more pixels is refused before it is decoded (decompression bombs)."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_MEDIA_TYPES = {**{name: f"image/{name.lower()}" for name in FORMATS}, "MPO": "image/jpeg"}  # MPO: from some cameras
_SUFFIX = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "image/gif": "gif", "image/bmp": "bmp"}


class ImageStore:
    """Images by the sha256 of their bytes, in one folder; `put` is idempotent."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def roots(self) -> tuple[Path, ...]:
        """The folders its images may lie in."""
        return (self.root,)

    def put(self, data: bytes, *, name: str | None = None, where: str | None = None) -> ImageRef:
        """Check that `data` decodes as an image and keep it. Raises `ImageError` (empty, corrupt, too many pixels)."""
        ref = inspect_image(data, name=name, where=where)
        path = self.path(ref)
        if not path.exists():
            write_atomic(path, data)
        return ref

    def path(self, ref: ImageRef) -> Path:
        return self.root / f"{ref.sha256}.{_SUFFIX.get(ref.media_type, 'bin')}"

    def read(self, ref: ImageRef) -> bytes:
        """The bytes of `ref`; raises `ImageError` when they are missing or are not the ones named."""
        path = self.path(ref)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ImageError(error.strerror or str(error), file=path, hint="the run folder lost an image") from error
        if hashlib.sha256(data).hexdigest() != ref.sha256:
            raise ImageError("the bytes do not match their name", file=path, hint="the file was changed; restore it")
        return data

    def open(self, ref: ImageRef) -> Image.Image:
        """`ref` decoded to RGB."""
        with Image.open(io.BytesIO(self.read(ref))) as image:
            return image.convert("RGB")


def inspect_image(data: bytes, *, name: str | None = None, where: str | None = None) -> ImageRef:
    """Decode `data` fully and describe it; raises `ImageError`. Only kinds of image that model servers take count."""
    if not data:
        raise ImageError("the image is empty", file=where)
    try:
        with _quiet(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError(f"{width}x{height} pixels, more than the {MAX_PIXELS} allowed", file=where)
            image.load()
            media_type = _MEDIA_TYPES[image.format or ""]
    except Image.DecompressionBombError as error:
        raise ImageError(str(error), file=where) from error
    except UnidentifiedImageError as error:
        raise ImageError(f"not a readable image: neither {', '.join(FORMATS)}", file=where) from error
    except (OSError, SyntaxError, ValueError, KeyError) as error:
        raise ImageError(f"not a readable image: {error}", file=where) from error
    digest = hashlib.sha256(data).hexdigest()
    return ImageRef(sha256=digest, media_type=media_type, width=width, height=height, name=name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Pillow's own warnings about an image: what it only warns of, `inspect_image` decides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
