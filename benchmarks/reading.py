"""Reading a release of parquet into seeds, CPU and memory: `python benchmarks/reading.py [rows]`.

The bound is what checking an image costs at least: one decode and one sha256 of the same bytes, nothing else. Each
count runs in a process of its own, so that peaks can be compared.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from safer_steer.config import SeedSource
from safer_steer.image_store import ImageStore
from safer_steer.measured import measure
from safer_steer.seeds import load_seeds

SCHEMA = pa.schema(
    [
        ("question", pa.string()),
        ("category", pa.string()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    ]
)
ROWS_IN_A_GROUP = 100  # as the datasets library writes images


def pictures(count: int) -> list[bytes]:
    """JPEGs of 640 x 480, each another."""
    noise = np.array(Image.effect_noise((640, 480), 40).convert("RGB"))
    found = []
    for number in range(count):
        buffer = io.BytesIO()
        Image.fromarray(np.roll(noise, number * 131)).save(buffer, "JPEG", quality=75)
        found.append(buffer.getvalue())
    return found


def write(path: Path, rows: int) -> None:
    """A release of so many rows, written a row group at a time."""
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for start in range(0, rows, ROWS_IN_A_GROUP):
            images = pictures(ROWS_IN_A_GROUP)
            group = [
                {
                    "question": f"question {start + number}?",
                    "category": "c",
                    "image": {"bytes": image + bytes([start // 100 % 256, start // 25600]), "path": None},
                }
                for number, image in enumerate(images)
            ]
            writer.write_table(pa.Table.from_pylist(group, schema=SCHEMA))


def one(folder: Path) -> None:
    """Read what lies in `folder`; print the rows, CPU per row, its bound and the peak."""
    before = psutil.Process().memory_info().rss / 2**20
    source = SeedSource(loader="beavertails_v", path=str(folder))
    with tempfile.TemporaryDirectory() as store, measure() as measured:
        rows = len(load_seeds([source], ImageStore(Path(store))).seeds)
    spent = measured.cpu_seconds / rows
    images = pictures(200)
    began = time.process_time()
    for image in images:
        with Image.open(io.BytesIO(image)) as opened:
            opened.load()
        hashlib.sha256(image).digest()
    bound = (time.process_time() - began) / len(images)
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    told = f"{spent * 1e3:.2f} ms CPU each, bound {bound * 1e3:.2f} ({spent / bound:.2f}x)"
    print(f"{rows} rows, {size:.0f} MB: {told}; memory {before:.0f} MB before, {measured.peak_mb:.0f} MB at most")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        one(Path(sys.argv[2]))
    else:
        most = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
        for rows in (most // 4, most):
            with tempfile.TemporaryDirectory() as folder:
                write(Path(folder) / "train.parquet", rows)
                subprocess.run([sys.executable, __file__, "one", folder], check=True)
