"""The seed loaders of released datasets, read from small releases of our own, and a recipe that names several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import released
from released import cell, picture, put, put_json, put_jsonl, put_parquet
from safer_steer.config import SeedSource, recipe_from
from safer_steer.dialogue import Seed, SeedKind, Split
from safer_steer.errors import ConfigError, DataError
from safer_steer.image_store import ImageStore
from safer_steer.seeds import LOADERS, Loaded, load_builtin, load_seeds

RELEASES = {
    "jailbreakv_28k": released.jailbreakv,
    "spa_vl": released.spa_vl,
    "beavertails_v": released.beavertails_v,
    "geometry3k": released.geometry3k,
    "align_anything": released.align_anything,
    "scienceqa": released.scienceqa,
    "vlsbench": released.vlsbench,
    "mm_safetybench": released.mm_safetybench,
    "vlguard": released.vlguard,
}
OWN = {"builtin", "jsonl", "parquet"}


def load(tmp_path: Path, *sources: dict[str, Any], skip_bad_rows: bool = False) -> Loaded:
    chosen = recipe_from({"construction": {"seeds": list(sources)}}).construction.seeds
    return load_seeds(chosen, ImageStore(tmp_path / "images"), skip_bad_rows=skip_bad_rows)


def seeds(tmp_path: Path, loader: str, split: str | None = None) -> tuple[Seed, ...]:
    path = tmp_path / loader
    if not path.exists():
        RELEASES[loader](path)
    return load(tmp_path, {"loader": loader, "path": str(path), "split": split}).seeds


def test_every_loader_is_tried_here() -> None:
    assert set(LOADERS) == set(RELEASES) | OWN


@pytest.mark.parametrize("loader", RELEASES)
def test_every_seed_has_an_image_in_the_store_and_an_id_of_its_own(tmp_path: Path, loader: str) -> None:
    found = seeds(tmp_path, loader)
    store = ImageStore(tmp_path / "images")
    assert found == seeds(tmp_path, loader)
    assert len({seed.id for seed in found}) == len(found) > 0
    for seed in found:
        assert seed.images and all(store.read(ref) for ref in seed.images)
        assert seed.source != "user" and seed.category and seed.licence


@pytest.mark.parametrize(
    ("loader", "split", "questions"),
    [
        ("beavertails_v", None, [f"question {number}?" for number in (5, 1, 2, 15, 11, 12)]),
        ("beavertails_v", "train", ["question 1?", "question 2?", "question 11?", "question 12?"]),
        ("beavertails_v", "test", ["question 5?", "question 15?"]),
        ("spa_vl", "train", ["question 1?", "question 2?"]),
        ("spa_vl", "val", ["question 3?"]),
        ("spa_vl", "test", ["question 4?", "question 5?"]),
        ("geometry3k", "val", ["Find x."]),
        ("align_anything", "train", ["What is it?", "Where?"]),
        ("vlguard", "train", ["what is it?", "insult it", "whose is it?"]),
        ("vlsbench", "test", ["how do I use it?"] * 2),
        ("mm_safetybench", None, ["plain 0?", "plain 1?"] * 2),
        ("jailbreakv_28k", None, ["goal one", "goal two"]),
    ],
)  # fmt: skip
def test_the_split_that_was_asked_for(tmp_path: Path, loader: str, split: str | None, questions: list[str]) -> None:
    found = seeds(tmp_path, loader, split)
    assert [seed.question for seed in found] == questions
    if split is not None:
        assert {seed.split for seed in found} == {Split(split)}


def test_without_a_split_every_seed_has_its_own(tmp_path: Path) -> None:
    assert {seed.split for seed in seeds(tmp_path, "scienceqa")} == {Split.TEST}  # the same rows: content is the id
    assert [seed.split for seed in seeds(tmp_path, "geometry3k")] == [Split.TEST, Split.TRAIN, Split.VAL]
    assert {seed.split for seed in seeds(tmp_path, "vlsbench")} == {None}


def test_what_is_benign_and_what_a_good_answer_is(tmp_path: Path) -> None:
    science, without_hint = seeds(tmp_path, "scienceqa", "train")
    assert science.question == "Look at the picture.\nWhich is larger?\nA. the sun\nB. the moon"
    assert (science.reference, science.category, science.licence) == ("A. the sun", "natural science", "CC-BY-SA-4.0")
    assert without_hint.question.startswith("Which is larger?") and without_hint.reference == "B. the moon"
    (geometry,) = seeds(tmp_path, "geometry3k", "val")
    assert (geometry.question, geometry.reference, geometry.kind) == ("Find x.", "1", SeedKind.BENIGN)
    liked, neither = seeds(tmp_path, "align_anything", "train")
    assert (liked.reference, neither.reference, liked.kind) == ("a dog", None, SeedKind.BENIGN)
    safe, unsafe, _ = seeds(tmp_path, "vlguard", "test")
    assert (safe.kind, safe.reference, unsafe.kind) == (SeedKind.BENIGN, "a thing", SeedKind.HARMFUL)
    assert {seed.kind for seed in seeds(tmp_path, "beavertails_v")} == {SeedKind.HARMFUL}


def test_jailbreakv_gives_every_request_once_with_an_image_that_shows_it(tmp_path: Path) -> None:
    one, two = seeds(tmp_path, "jailbreakv_28k")
    assert (one.images[0].name, two.images[0].name) == ("figstep/1.png", "figstep/2.png")


def test_the_ids_do_not_depend_on_how_a_release_is_sharded(tmp_path: Path) -> None:
    rows = [{"question": f"question {i}?", "image": cell(i), "category": "c"} for i in range(6)]
    put_parquet(tmp_path / "one" / "train.parquet", rows)
    for number, at in enumerate((0, 2, 4)):
        put_parquet(tmp_path / "many" / f"train-{number}.parquet", rows[at : at + 2])
    one = load(tmp_path, {"loader": "beavertails_v", "path": str(tmp_path / "one")})
    many = load(tmp_path, {"loader": "beavertails_v", "path": str(tmp_path / "many")})
    assert one.seeds == many.seeds and len(one.seeds) == 6


# --- recipes ----------------------------------------------------------------------------------------------------


def test_a_recipe_names_several_loaders_with_paths_splits_and_limits(tmp_path: Path) -> None:
    for loader in ("beavertails_v", "geometry3k", "vlsbench"):
        RELEASES[loader](tmp_path / loader)
    found = load(
        tmp_path,
        {"loader": "beavertails_v", "path": str(tmp_path / "beavertails_v"), "split": "train", "limit": 3},
        {"loader": "vlsbench", "path": str(tmp_path / "vlsbench"), "split": "test", "limit": 1},
        {"loader": "geometry3k", "path": str(tmp_path / "geometry3k"), "split": "train"},
        {"loader": "builtin", "split": "val"},
    ).seeds
    assert [seed.source for seed in found[:5]] == ["BeaverTails-V"] * 3 + ["VLSBench", "Geometry3K"]
    assert found[5:] == load_builtin("val")
    assert [seed.split for seed in found[:5]] == [Split.TRAIN] * 3 + [Split.TEST, Split.TRAIN]


@pytest.mark.parametrize(
    ("said", "loader", "path"),
    [
        ("builtin", "builtin", None),
        ("my.jsonl", "jsonl", "my.jsonl"),
        ("data/my.parquet", "parquet", "data/my.parquet"),
    ],
)
def test_a_plain_string_still_names_the_seeds(said: str, loader: str, path: str | None) -> None:
    (source,) = recipe_from({"construction": {"seeds": said}}).construction.seeds
    assert source == SeedSource(loader=loader, path=path)
    (source,) = recipe_from({}, [f"construction.seeds={said}"]).construction.seeds
    assert source.loader == loader


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ([{"loader": "x", "pth": "y"}], r"unknown key 'construction.seeds.0.pth'"),
        ([{"path": "y"}], r"'construction.seeds.0.loader': Field required"),
        ([{"loader": "x", "limit": 0}], r"'construction.seeds.0.limit': .*greater than 0"),
        ([{"loader": "x", "split": "dev"}], r"'construction.seeds.0.split': .*'train', 'val' or 'test'"),
        ([], r"'construction.seeds': .*at least 1 item"),
    ],
)
def test_a_wrong_source_is_named(seeds: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        recipe_from({"construction": {"seeds": seeds}})


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"loader": "beavertails"}, r"no seed loader or file 'beavertails' \(choose from builtin, jsonl, parquet, "),
        ({"loader": "vlsbench"}, r"the loader 'vlsbench' needs a path \(to data.json and the images"),
        ({"loader": "vlsbench", "path": "/no/such"}, r"/no/such: No such file or directory \(it needs data.json"),
    ],
)
def test_a_loader_that_is_not_there_or_has_no_path(tmp_path: Path, source: dict[str, Any], said: str) -> None:
    with pytest.raises((ConfigError, DataError), match=said):
        load(tmp_path, source)


def test_a_split_that_a_dataset_has_not(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no split 'val' \(choose from train, test\)"):
        seeds(tmp_path, "beavertails_v", "val")
    with pytest.raises(DataError, match=r"evaluation.parquet: is the split 'test', not 'train'"):
        file = tmp_path / "beavertails_v" / "data" / "animal_abuse" / "evaluation.parquet"
        load(tmp_path, {"loader": "beavertails_v", "path": str(file), "split": "train"})
    assert not [seed for seed in load_builtin() if seed.split is None]


def test_the_same_id_in_two_sources_is_an_error_that_names_both(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    row = {"id": "s1", "question": "q", "category": "c", "image": "a.png"}
    one, two = put_jsonl(tmp_path / "one.jsonl", [row]), put_jsonl(tmp_path / "two.jsonl", [row])
    with pytest.raises(DataError) as caught:
        load(tmp_path, {"loader": "jsonl", "path": str(one)}, {"loader": "jsonl", "path": str(two)})
    assert f"{two}: field 'id': the id 's1' stands in jsonl:{one} and jsonl:{two}" == str(caught.value)


# --- plain files ------------------------------------------------------------------------------------------------


def test_a_parquet_of_ones_own(tmp_path: Path) -> None:
    put(tmp_path, "pictures/a.png")
    rows = [
        {"question": "one?", "category": "c", "image": cell(1), "kind": "benign", "split": "val", "facts": ["red"]},
        {"question": "two?", "category": "c", "image": cell(1), "id": "mine", "borderline": True},
        {"question": "two?", "category": "c", "image": cell(2)},
    ]
    path = put_parquet(tmp_path / "seeds.parquet", rows)
    one, two, three = load(tmp_path, {"loader": "parquet", "path": str(path)}).seeds
    assert (one.kind, one.split, one.facts, two.id, two.borderline) == (
        SeedKind.BENIGN, Split.VAL, ("red",), "mine", True,
    )  # fmt: skip
    assert one.id.startswith("seed-") and one.id != three.id and one.images[0].sha256 == two.images[0].sha256
    raw = put_parquet(tmp_path / "raw.parquet", [{"question": "q?", "category": "c", "image": picture(5)}])
    paths = put_parquet(tmp_path / "paths.parquet", [{"question": "q?", "category": "c", "images": ["pictures/a.png"]}])
    store = ImageStore(tmp_path / "images")
    (seed,) = load(tmp_path, {"loader": "parquet", "path": str(raw)}).seeds
    assert store.read(seed.images[0]) == picture(5)
    (seed,) = load(tmp_path, {"loader": "parquet", "path": str(paths)}).seeds
    assert store.read(seed.images[0]) == (tmp_path / "pictures/a.png").read_bytes()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"question": "q", "image": cell()}], r"parquet: field 'category': the column is missing \(the file has: "),
        ([{"question": "q", "category": "c", "image": cell(), "mood": 1}], r"field 'mood': is not a column of a par"),
        ([{"question": "q", "category": "c"}], r"seeds.parquet, row 1: field 'image': give either 'image' or 'images'"),
        ([{"question": " ", "category": "c", "image": cell()}], r"row 1: field 'question': String should match"),
        ([{"question": "q", "category": "c", "image": cell()}, {"question": None, "category": "c", "image": cell(1)}],
         r"row 2: field 'question': is missing"),
        ([{"question": 3, "category": "c", "image": cell()}], r"row 1: field 'question': .*valid string"),
        ([{"question": "q", "category": "c", "image": b"text"}], r"row 1: field 'image': not a readable image"),
        ([{"question": "q", "category": "c", "image": "../a.png"}], r"row 1: field 'image': '../a.png': lies outside"),
        ([{"question": "q", "category": "c", "image": {"bytes": None, "path": "b.png"}}], r"'b.png': no such image f"),
        ([{"question": "q", "category": "c", "images": []}], r"field 'images': expected a list of at least one"),
        ([{"id": "x", "question": "q", "category": "c", "image": cell()}] * 2, r"row 2: field 'id': 'x' stands twice"),
    ],
)  # fmt: skip
def test_a_wrong_parquet_is_named(tmp_path: Path, rows: list[dict[str, Any]], said: str) -> None:
    path = put_parquet(tmp_path / "seeds.parquet", rows)
    with pytest.raises(DataError, match=said):
        load(tmp_path, {"loader": "parquet", "path": str(path)})


def test_rows_of_another_split_are_passed_over_and_those_of_none_join(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    row = {"question": "q", "category": "c", "image": "a.png"}
    rows = [{**row, "id": "a", "split": "train"}, {**row, "id": "b", "split": "test"}, {**row, "id": "c"}]
    path = put_jsonl(tmp_path / "seeds.jsonl", rows)
    found = load(tmp_path, {"loader": "jsonl", "path": str(path), "split": "test"}).seeds
    assert [(seed.id, seed.split) for seed in found] == [("b", Split.TEST), ("c", Split.TEST)]
    only = put_jsonl(tmp_path / "only.jsonl", rows[:1])
    with pytest.raises(DataError, match=r"only.jsonl: 'jsonl' found no seed to use"):
        load(tmp_path, {"loader": "jsonl", "path": str(only), "split": "test"})


def test_bad_seeds_are_skipped_only_when_asked_and_counted_over_all_sources(tmp_path: Path) -> None:
    path = RELEASES["vlsbench"](tmp_path / "vlsbench")
    rows = json.loads((path / "data.json").read_text())
    put_json(path / "data.json", [*rows, {**rows[0], "instruction_id": 6, "instruction": ""}, "text"])
    put(tmp_path, "a.png")
    good = {"id": "s1", "question": "q", "category": "c", "image": "a.png"}
    mine = put_jsonl(tmp_path / "seeds.jsonl", ["{", good, {**good, "id": "s2", "image": "b.png"}])
    sources = [{"loader": "vlsbench", "path": str(path)}, {"loader": "jsonl", "path": str(mine)}]
    with pytest.raises(DataError, match=r"data.json, row 3: field 'instruction'"):
        load(tmp_path, *sources)
    found = load(tmp_path, *sources, skip_bad_rows=True)
    assert len(found.seeds) == 3 and found.skips.rows == 4
    places = ["data.json, row 3: field", "data.json, row 4: not a", "seeds.jsonl:1: not JSON", "seeds.jsonl:3: field"]
    assert [place in problem for place, problem in zip(places, found.skips.first, strict=True)] == [True] * 4
    told = found.skips.told("seeds")
    assert told.startswith("seeds: 4 bad rows skipped, first ") and "data.json, row 3" in told
