"""The README's table of a finished demo, and how long its stages took.

Usage: python scripts/readme_table.py RUN_DIR
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from safer_steer.report.results import LABELS, MODELS, PROTOCOLS


def share(found: dict[str, Any]) -> str:
    return f"{100 * found['rate']:.0f} % ({100 * found['low']:.0f}–{100 * found['high']:.0f})"


def average(found: dict[str, Any]) -> str:
    return f"{found['mean']:.2f} ({found['low']:.2f}–{found['high']:.2f})"


def main(folders: list[str]) -> int:
    if len(folders) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    told = json.loads((Path(folders[0]) / "summary.json").read_text())
    counts = {"turns": 0, "unscored": 0, "failed": 0}
    for model in MODELS:
        for protocol in PROTOCOLS:
            found = told["evaluations"][f"{model}-{protocol}"]
            unsafe, benign = found["unsafe"], found["benign"]
            cells = [
                share(unsafe["safety_pass"]),
                average(unsafe["safety"]),
                average(benign["helpfulness"]),
                share(benign["over_refusals"]),
            ]
            print(f"| {LABELS[model]} | {protocol} | {' | '.join(cells)} |")
            counts = {name: counts[name] + found["counts"][name] for name in counts}
    print(counts)
    for stage in told["stages"]:
        print(stage)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
