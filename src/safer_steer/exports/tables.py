"""Parquet with images inside, as Hugging Face's `datasets` and its viewer read it: a hundred rows a row group."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from safer_steer.dialogue import ImageRef
from safer_steer.image_store import ImageStore
from safer_steer.store import disk_errors

ROWS_PER_GROUP = 100
"""The viewer reads whole row groups; with images inside larger ones are refused."""

PICTURES = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
"""How `datasets` stores a list of images."""

IMAGE_FEATURE = {"feature": {"_type": "Image"}, "_type": "List"}


def value(dtype: str) -> dict[str, str]:
    """The `datasets` feature of a plain column."""
    return {"dtype": dtype, "_type": "Value"}


def list_of(feature: Any) -> dict[str, Any]:
    """The `datasets` feature of a list."""
    return {"feature": feature, "_type": "List"}


def pictures(images: ImageStore, refs: Iterable[ImageRef]) -> list[dict[str, Any]]:
    """Images as the cells of a `PICTURES` column; raises `ImageError`."""
    return [{"bytes": images.read(ref), "path": images.path(ref).name} for ref in refs]


def write_table(
    path: Path, schema: pa.Schema, rows: Iterable[Mapping[str, Any]], features: Mapping[str, Any] | None = None
) -> int:
    """Write rows as parquet, a row group at a time; returns their number. A killed writer leaves no file there.

    `features` are what `datasets` is told about the columns (the schema's metadata `huggingface`).
    """
    told = {} if features is None else {"huggingface": json.dumps({"info": {"features": dict(features)}})}
    partial = path.with_name(f".{path.name}.partial")
    number = 0
    batch: list[Mapping[str, Any]] = []
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # A page index lets the viewer fetch single pages of large cells.
            with pq.ParquetWriter(partial, schema.with_metadata(told), write_page_index=True) as writer:
                for row in rows:
                    batch.append(row)
                    number += 1
                    if len(batch) == ROWS_PER_GROUP:
                        writer.write_table(pa.Table.from_pylist(batch, schema=writer.schema))
                        batch = []
                if batch or number == 0:
                    writer.write_table(pa.Table.from_pylist(batch, schema=writer.schema))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return number
