"""The pictures of the built-in seeds: photographs and pictograms kept as files, figures and words drawn on demand.

Three data files name them all: `data/photos.yaml`, `data/pictograms.yaml` and `data/rendered.yaml`. Each entry says
what the image verifiably shows (`facts`) and whose it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import lru_cache
from importlib.resources import files
from typing import Annotated, Any

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from safer_steer.dialogue import ImageRef, Record
from safer_steer.errors import DataError
from safer_steer.image_store import ImageStore, inspect_image
from safer_steer.seeds.drawing import png
from safer_steer.seeds.sketches import Sketch, look

DATA = files("safer_steer.seeds").joinpath("data")

PACKAGES: Mapping[str, str] = {
    "skimage": "scikit-image 0.26",
    "sklearn": "scikit-learn 1.9",
    "matplotlib": "matplotlib 3.11",
    "lomiri": "lomiri-wallpapers 20.04",
    "gcompris": "gcompris-qt-data 3.1",
}
"""The packages that the photographs come from, by the short names of `data/photos.yaml`."""


class ImageKind(StrEnum):
    PHOTO = "photo"
    PICTOGRAM = "pictogram"
    RENDERED = "rendered"


class Picture(Record):
    """One built-in image: what it shows, who made it, under which licence; `draw` for those rendered by us."""

    name: str
    kind: ImageKind
    facts: tuple[str, ...]
    by: str
    source: str
    licence: str
    draw: Sketch | None = None


Facts = Annotated[tuple[str, ...], Field(min_length=1, max_length=5)]


class _Photo(Record):
    via: str
    by: str
    licence: str
    facts: Facts


class _Pictogram(Record):
    facts: Facts


class _Rendered(Record):
    facts: Facts
    draw: Sketch


def read_yaml(name: str, shape: Any) -> Any:
    """Read `data/<name>` as `shape`; raises `DataError` naming the file and the field.

    The text passes through JSON on its way, so that a YAML list may stand for a tuple in strict records.
    """
    try:
        tree = yaml.safe_load(DATA.joinpath(*name.split("/")).read_text("utf-8"))
        adapter: TypeAdapter[Any] = TypeAdapter(shape)
        return adapter.validate_json(TypeAdapter(Any).dump_json(tree))
    except yaml.YAMLError as error:
        raise DataError(f"not valid YAML: {error}", file=name) from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise DataError(first["msg"], file=name, field=field) from error


@lru_cache(maxsize=1)
def catalogue() -> Mapping[str, Picture]:
    """Every built-in image by name."""
    pictures = [*_photos(), *_pictograms(), *_rendered()]
    return {picture.name: picture for picture in pictures}


def _photos() -> Iterable[Picture]:
    entries: dict[str, _Photo] = read_yaml("photos.yaml", dict[str, _Photo])
    for name, e in entries.items():
        source = PACKAGES[e.via]
        yield Picture(name=name, kind=ImageKind.PHOTO, facts=e.facts, by=e.by, source=source, licence=e.licence)


def _pictograms() -> Iterable[Picture]:
    entries: dict[str, _Pictogram] = read_yaml("pictograms.yaml", dict[str, _Pictogram])
    for name, e in entries.items():
        kind, by = ImageKind.PICTOGRAM, "Microsoft and Mohammad Abu Mattar"
        facts = (*e.facts, "a simple coloured drawing")
        yield Picture(name=name, kind=kind, facts=facts, by=by, source="fluentui-emoji 1.3.0", licence="MIT")


def _rendered() -> Iterable[Picture]:
    entries: dict[str, _Rendered] = read_yaml("rendered.yaml", dict[str, _Rendered])
    for name, e in entries.items():
        kind, by, source = ImageKind.RENDERED, "the SaFeR-Steer authors", "drawn by safer_steer.seeds.drawing"
        facts = (*e.facts, look(e.draw))
        yield Picture(name=name, kind=kind, facts=facts, by=by, source=source, licence="Apache-2.0", draw=e.draw)


def picture(name: str) -> Picture:
    """The built-in image called `name`; raises `DataError` if there is none."""
    found = catalogue().get(name)
    if found is None:
        raise DataError(f"there is no built-in image '{name}'", hint="see photos, pictograms and rendered in data/")
    return found


@lru_cache(maxsize=512)
def image_bytes(name: str) -> bytes:
    """The encoded bytes (JPEG or PNG, at most 320 px a side) of a built-in image."""
    entry = picture(name)
    if entry.draw is not None:
        return png(entry.draw)
    folder, suffix = ("photos", "jpg") if entry.kind is ImageKind.PHOTO else ("pictograms", "png")
    return DATA.joinpath(folder, f"{name}.{suffix}").read_bytes()


@lru_cache(maxsize=512)
def image_ref(name: str) -> ImageRef:
    """The content address of a built-in image, without storing it."""
    return inspect_image(image_bytes(name), name=name)


def materialise_images(store: ImageStore, names: Iterable[str] | None = None) -> tuple[ImageRef, ...]:
    """Put the named built-in images (all of them by default) into `store`; doing it twice changes nothing."""
    chosen = catalogue() if names is None else names
    return tuple(store.put(image_bytes(name), name=name) for name in chosen)
