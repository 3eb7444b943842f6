"""What `make` says and would do, without doing it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)


def interpreter(folder: Path, version: str) -> Path:
    """A Python that takes itself for another version."""
    path = folder / f"python{version}"
    code = f"import sys; sys.version_info = ({version.replace('.', ', ')}); exec(sys.argv[1])"
    path.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{code}' \"$2\"\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(("version", "fits"), [("3.10.12", False), ("2.7.18", False), ("3.11.0", True)])
def test_too_old_a_python_is_refused_with_a_way_out(tmp_path: Path, version: str, fits: bool) -> None:
    done = make("python", f"PYTHON={interpreter(tmp_path, version)}")
    assert (done.returncode == 0) is fits
    if not fits:
        told = ".".join(version.split(".")[:2])
        assert f"needs Python 3.11 or later, and {tmp_path}/python{version} is {told} (say make PYTHON=" in done.stderr


def test_another_index_is_asked_in_every_environment() -> None:
    for goal, environment in (("setup", ".venv"), ("test-inspect", ".venv-inspect"), ("test-verl", ".venv-verl")):
        lines = make(
            "--dry-run", "--always-make", goal, "EXTRA_INDEX=https://wheels.example.org/cpu"
        ).stdout.splitlines()
        installs = [line for line in lines if f"{environment}/bin/pip install" in line]
        assert len(installs) >= 3
        assert all("--extra-index-url https://wheels.example.org/cpu" in line for line in installs)
