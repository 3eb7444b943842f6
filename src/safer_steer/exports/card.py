"""The dataset card: a `README.md` with the metadata that Hugging Face reads, and the statistics for people."""

from __future__ import annotations

from pathlib import Path

import jinja2
import yaml

from safer_steer.exports.plot import plot
from safer_steer.exports.stats import Stats, stats_of, text_of
from safer_steer.run_folder import RunFolder
from safer_steer.store import write_atomic, write_json

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))

NAMES = {"sft": "dialogues to learn from", "rl": "scripts for GRPO", "val": "scripts to watch", "bench": "held out"}

_CARD = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined).from_string("""---
{{ front }}---

# {{ title }}

Multi-turn safety dialogues about images, made by `safer-steer` from single-turn seeds: benign, obfuscated and red-team
ones. `sft` holds dialogues with answers that passed a safety and a helpfulness threshold; the other splits hold the
user's side only.

**It contains attempts to get harmful help.** They are meant for training and testing that assistants stay safe.

| split | what | dialogues | turns | mean | images |
|---|---|---|---|---|---|
{% for name, part in stats.parts.items() %}
| `{{ name }}` | {{ names[name] }} | {{ part.dialogues }} | {{ part.range[0] }}–{{ part.range[1] }} | {{ "%.2f" % part.mean_turns }} | {{ part.images }} |
{% endfor %}

![Statistics](stats.png)

## Columns

`images` (before the first turn), `messages` (`role`, `content`), `kind`, `category`, `strategy` (of red-team ones),
`turns`, `safety` (the reward judge's score of each answer, 1 to 10; empty where there is no answer), `id`, `seed_id`.

## How it was made

1. Each harmful seed is rewritten harmlessly and with its risk hidden; scripts are expanded from both.
2. Red-team scripts are planned under one strategy each{% if stats.attacked.rate is not none %}, and those for training
   were kept only where they succeeded against a target model ({{ "%.1f" % (100 * stats.attacked.rate) }} % of {{ stats.attacked.decided }}){% endif %}.
3. Near-duplicates are removed within and across splits, by exact Jaccard similarity of word 3-shingles and by perceptual
   hash of images; {{ stats.crossing }} dialogues or seeds stand in training and benchmark both.
4. For `sft` a red agent rewrote each turn, an expert answered under safety guidelines, and {{ stats.kept }} of
   {{ stats.played }} dialogues passed.

## Numbers

```
{{ text }}```

## Licence

The seeds' licences hold for what was made from them; this card cannot decide it for you.
""")  # noqa: E501


def write_stats(run: RunFolder, folder: Path) -> Stats:
    """Write `stats.json`, `stats.txt` and `stats.png` into `folder`; raises `StorageError`."""
    stats = stats_of(run)
    write_json(folder / "stats.json", stats.model_dump(mode="json"))
    write_atomic(folder / "stats.txt", text_of(stats))
    plot(stats, folder / "stats.png")
    return stats


def write_card(run: RunFolder, folder: Path) -> Stats:
    """`write_stats`, and the dataset card `README.md` beside them."""
    stats = write_stats(run, folder)
    write_atomic(folder / "README.md", card(stats))
    return stats


def card(stats: Stats) -> str:
    """The card's text."""
    total = sum(part.dialogues for part in stats.parts.values())
    files = [{"split": name, "path": f"data/{name}-*.parquet"} for name in stats.parts]
    front = {
        "pretty_name": "STEER dialogues",
        "task_categories": ["image-text-to-text"],
        "language": ["en"],
        "tags": ["safety", "alignment", "red-teaming", "multi-turn", "vision-language"],
        "size_categories": [next((name for limit, name in _SIZES if total < limit), "n>1M")],
        "license": "other",
        "configs": [{"config_name": "default", "data_files": files}],
    }
    shown = yaml.safe_dump(front, sort_keys=False)
    return _CARD.render(front=shown, title="STEER dialogues", stats=stats, names=NAMES, text=text_of(stats))
