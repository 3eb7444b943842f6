"""How released datasets are read: rows that know their place, images that stay in their folder, one row at a time.

Suites (`bench.suites`) and seeds (`seeds.loaders`) of the same dataset share the module here that reads its rows.
"""

from safer_steer.formats.item import Item
from safer_steer.formats.reading import Reading, Skips
from safer_steer.formats.rows import Row, Rows
from safer_steer.formats.sources import csv_rows, find, json_rows, jsonl_rows, parquet_rows, split_files

__all__ = [
    "Item",
    "Reading",
    "Row",
    "Rows",
    "Skips",
    "csv_rows",
    "find",
    "json_rows",
    "jsonl_rows",
    "parquet_rows",
    "split_files",
]
