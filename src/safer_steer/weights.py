"""Fingerprints of model folders: what stands in them, not when it was written."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from safer_steer.store import disk_errors


def weights_print(folder: Path) -> str:
    """A fingerprint of a model folder's weights and configuration, the same for a copy of it.

    Reads every byte (1–2 GB a second), once a process for files that did not change. Raises `StorageError`.
    """
    digest = hashlib.sha256()
    with disk_errors(folder):
        for path in sorted(folder.iterdir()):
            if path.suffix in (".safetensors", ".bin") or path.name == "config.json":
                stat = path.stat()
                digest.update(path.name.encode() + _sha256(path, stat.st_size, stat.st_mtime_ns, stat.st_ino))
    return digest.hexdigest()[:16]


@lru_cache(maxsize=256)
def _sha256(path: Path, size: int, changed: int, inode: int) -> bytes:
    """The file's hash; what else is given tells one state of it from another."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
