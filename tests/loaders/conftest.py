"""Exports read by their owners' own code, in the environments of `make test-exports`; passed over elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
