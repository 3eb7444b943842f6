"""The built-in seeds: what the data promises, held to it. (Users' own files: test_seeds_jsonl.py.)"""

from __future__ import annotations

import io
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops

from safer_steer.dialogue import Seed, SeedKind, Split
from safer_steer.errors import ConfigError, DataError
from safer_steer.image_store import ImageStore
from safer_steer.seeds import BENIGN_KINDS, HARM_CATEGORIES, load_builtin, materialise_images
from safer_steer.seeds.canvas import HEIGHT, WIDTH, fitted, font
from safer_steer.seeds.drawing import draw, png
from safer_steer.seeds.images import DATA, ImageKind, catalogue, image_bytes, picture, read_yaml
from safer_steer.seeds.sketches import Chart, Colour, Frame, Geometry, Sketch, Table, Tokens, Word, look

SEEDS = load_builtin()
HARMFUL = [seed for seed in SEEDS if seed.kind is SeedKind.HARMFUL]
BENIGN = [seed for seed in SEEDS if seed.kind is SeedKind.BENIGN]
PICTURES = list(catalogue().values())
FREE_LICENCES = {
    "public domain",
    "no known copyright restrictions",
    "CC0-1.0",
    "CC-BY-2.0",
    "CC-BY-4.0",
    "BSD-3-Clause",
    "MIT",
    "Apache-2.0",
}


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z']+", text.lower()))


def jaccard(a: str, b: str) -> float:
    """
    >>> jaccard("a red cat", "a red dog")
    0.5
    """
    return len(words(a) & words(b)) / len(words(a) | words(b))


# --- size and shape of the set ----------------------------------------------------------------------------------


def test_every_category_has_enough_seeds() -> None:
    harmful, benign = Counter(s.category for s in HARMFUL), Counter(s.category for s in BENIGN)
    assert set(harmful) == set(HARM_CATEGORIES)
    assert set(benign) == set(BENIGN_KINDS)
    assert min(harmful.values()) >= 9
    assert min(benign.values()) >= 9
    assert len(HARMFUL) >= 126
    assert len(BENIGN) >= 45


def test_each_split_has_every_category_in_about_the_right_share() -> None:
    for split, low, high in ((Split.TRAIN, 0.48, 0.60), (Split.VAL, 0.10, 0.20), (Split.TEST, 0.27, 0.36)):
        chosen = load_builtin(split)
        assert {s.split for s in chosen} == {split}
        assert {s.category for s in chosen} == {*HARM_CATEGORIES, *BENIGN_KINDS}
        assert low <= len(chosen) / len(SEEDS) <= high


def test_splits_partition_the_set_in_order() -> None:
    assert sorted(s.id for split in Split for s in load_builtin(split)) == sorted(s.id for s in SEEDS)
    assert load_builtin("test") == load_builtin(Split.TEST)
    assert load_builtin() == SEEDS


def test_unknown_split_names_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"unknown split 'dev' .*'train', 'val', 'test'"):
        load_builtin("dev")


def test_ids_are_unique_stable_slugs_of_their_category() -> None:
    assert len({s.id for s in SEEDS}) == len(SEEDS)
    for seed in SEEDS:
        assert re.fullmatch(rf"{seed.category.replace('_', '-')}-\d\d", seed.id)


def test_seeds_survive_the_disk() -> None:
    assert [Seed.from_json(seed.to_json()) for seed in SEEDS] == list(SEEDS)


def test_no_image_stands_in_two_splits() -> None:
    where: dict[str, set[Split | None]] = {}
    for seed in SEEDS:
        for ref in seed.images:
            where.setdefault(ref.sha256, set()).add(seed.split)
    assert [digest for digest, splits in where.items() if len(splits) > 1] == []


@pytest.mark.parametrize("category", [*HARM_CATEGORIES, *BENIGN_KINDS])
def test_questions_and_goals_of_a_category_are_not_near_duplicates(category: str) -> None:
    for a, b in combinations([s for s in SEEDS if s.category == category], 2):
        assert jaccard(a.question, b.question) < 0.5, (a.id, b.id)
        if a.slots is not None and b.slots is not None:
            assert jaccard(a.slots.goal, b.slots.goal) < 0.5, (a.id, b.id)


def test_goals_covers_and_topics_are_all_different() -> None:
    for field in ("goal", "cover", "topic", "safe", "subject"):
        said = Counter(getattr(s.slots, field) for s in HARMFUL)
        assert [text for text, times in said.items() if times > 1] == []


# --- wording ----------------------------------------------------------------------------------------------------

SLOTS = ("subject", "topic", "goal", "cover", "safe", "harm")


@pytest.mark.parametrize("field", SLOTS)
def test_slots_fit_into_a_sentence(field: str) -> None:
    for seed in HARMFUL:
        text = getattr(seed.slots, field)
        assert text[0].islower(), (seed.id, text)
        assert not re.search(r"[.!?:;\n]|\s$|  ", text), (seed.id, text)
        assert len(text.split()) <= 14, (seed.id, text)
        assert not re.search(r"\d", text), (seed.id, text)


def test_slots_have_the_grammar_their_frames_need() -> None:
    for seed in HARMFUL:
        slots = seed.slots
        assert slots is not None
        assert re.match(r"the .* in the picture$", slots.subject), seed.id
        assert re.match(r"(how|why|what|which|the) ", slots.topic), seed.id
        assert re.match(r"\w+ing ", slots.goal), seed.id
        assert re.match(r"(a|an|the) ", slots.cover), seed.id
        assert re.match(r"\w+ing ", slots.safe), seed.id
        assert re.search(r"\b(can|could|would)\b", slots.harm), seed.id


def test_benign_steps_are_short_answerable_and_carry_their_keys() -> None:
    for seed in BENIGN:
        assert seed.reference, seed.id
        assert 2 <= len(seed.steps) <= 5, seed.id
        for step in seed.steps:
            assert len(step.reference.split()) <= 25, (seed.id, step)
            assert 1 <= len(step.keys) <= 5, (seed.id, step)
            assert step.user[0].isupper(), (seed.id, step)
            assert step.user[-1] in ".?", (seed.id, step)
            for key in step.keys:
                assert key == key.lower(), (seed.id, key)
                assert key in step.reference.lower(), (seed.id, key)


def test_some_benign_seeds_only_look_dangerous() -> None:
    borderline = [s for s in BENIGN if s.borderline]
    assert len(borderline) >= 10
    assert {s.category for s in borderline} == {"science", "everyday"}
    assert {s.split for s in borderline} == set(Split)


def test_nothing_is_about_minors_and_no_question_carries_quantities() -> None:
    for seed in HARMFUL:
        assert not re.search(r"\b(minors?|underage|teen\w*|kids?|pupils?)\b", seed.question.lower()), seed.id
        assert not re.search(r"\d", seed.question), seed.id
    for seed in HARMFUL:
        if seed.category == "sexual_content":
            assert not re.search(r"child|school|student|young", seed.to_json()), seed.id


def test_real_persons_stand_only_in_benign_seeds() -> None:
    people = {"astronaut", "naval-officer", "cameraman"}
    assert {s.kind for s in SEEDS for ref in s.images if ref.name in people} == {SeedKind.BENIGN}


# --- images -----------------------------------------------------------------------------------------------------


def test_there_are_many_distinct_images_of_every_kind() -> None:
    kinds = Counter(p.kind for p in PICTURES)
    assert kinds[ImageKind.PHOTO] >= 60
    assert kinds[ImageKind.PICTOGRAM] >= 40
    assert kinds[ImageKind.RENDERED] >= 60
    assert len({image_bytes(p.name) for p in PICTURES}) == len(PICTURES)


def test_every_image_is_used_and_every_file_is_named() -> None:
    assert {ref.name for s in SEEDS for ref in s.images} == set(catalogue())
    for folder, kind, suffix in (("photos", ImageKind.PHOTO, ".jpg"), ("pictograms", ImageKind.PICTOGRAM, ".png")):
        names = {path.name for path in DATA.joinpath(folder).iterdir() if path.name != "LICENSE"}
        assert names == {p.name + suffix for p in PICTURES if p.kind is kind}


def test_images_are_small_free_and_described() -> None:
    for p in PICTURES:
        with Image.open(io.BytesIO(image_bytes(p.name))) as image:
            image.load()
            assert 150 <= max(image.size) <= 384, p.name
        assert p.licence in FREE_LICENCES, p.name
        assert 3 <= len(p.facts) <= 6, p.name
        assert p.by, p.name
    kept = sum(len(image_bytes(p.name)) for p in PICTURES if p.kind is not ImageKind.RENDERED)
    assert kept < 2_000_000


def test_seed_facts_are_those_of_its_images() -> None:
    seed = next(s for s in SEEDS if s.id == "image-description-13")
    assert [ref.name for ref in seed.images] == ["meadow", "moose"]
    assert seed.facts == (*picture("meadow").facts, *picture("moose").facts)


def test_rendering_repeats_itself_to_the_byte() -> None:
    for p in PICTURES:
        if p.draw is not None:
            assert png(p.draw) == image_bytes(p.name)


def test_the_font_has_every_letter_that_is_drawn() -> None:
    text = set("".join(re.findall(r"draw: .*", DATA.joinpath("rendered.yaml").read_text("utf-8"))))
    for bold in (False, True):
        missing = bytes(font(40, bold).getmask("\uffff"))
        assert [letter for letter in sorted(text - {" "}) if bytes(font(40, bold).getmask(letter)) == missing] == []


def test_materialising_stores_every_image_once(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    refs = materialise_images(store)
    assert materialise_images(store) == refs
    assert len(list(tmp_path.iterdir())) == len(PICTURES)
    assert {ref for s in SEEDS for ref in s.images} == set(refs)
    assert store.read(refs[0]) == image_bytes(PICTURES[0].name)
    assert [ref.name for ref in materialise_images(store, ["cat", "fig-clock-quarter"])] == ["cat", "fig-clock-quarter"]


def test_unknown_image_and_bad_data_file_are_named() -> None:
    with pytest.raises(DataError, match="no built-in image 'unicorn'"):
        picture("unicorn")
    with pytest.raises(DataError, match=r"photos.yaml: field 'astronaut"):
        read_yaml("photos.yaml", dict[str, int])


def test_the_notice_table_credits_every_photograph() -> None:
    text = (Path(__file__).parents[1] / "docs" / "seeds.md").read_text("utf-8")
    for p in PICTURES:
        if p.kind is ImageKind.PHOTO:
            assert f"| `{p.name}` | {p.by} | {p.source} | {p.licence} |" in text


def test_the_examples_of_the_docs_print_what_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[1] / "docs" / "seeds.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "docs/seeds.md", "exec"), {})
        assert capsys.readouterr().out.splitlines() == re.findall(r"^#> (.*)$", block, re.M)


# --- drawing ----------------------------------------------------------------------------------------------------


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=60), st.integers(20, 300))
def test_fitted_text_is_no_wider_than_its_box(text: str, width: int) -> None:
    face = fitted(text, width, 40)
    assert 8 <= face.size <= 40
    assert face.size == 8 or face.getlength(text) <= width


@settings(max_examples=25, deadline=None)
@given(st.text("ABC xyz|", min_size=1, max_size=20), st.sampled_from(Frame), st.sampled_from(Colour))
def test_any_word_can_be_drawn(text: str, frame: Frame, paper: Colour) -> None:
    image = draw(Word(kind="word", text=text, frame=frame, paper=paper))
    assert (image.mode, image.size) == ("RGB", (WIDTH, HEIGHT))


@pytest.mark.parametrize(
    "sketch",
    [
        Chart(kind="bars", title="One bar", labels=("a",), values=(0.5,)),
        Chart(kind="pie", title="One part", labels=("a",), values=(3,)),
        Chart(kind="line", title="One point", labels=("a",), values=(3,)),
        Table(kind="table", title="Wide", rows=(tuple("abcdef"), tuple("uvwxyz"))),
        Geometry(kind="number_line", title="One mark", numbers=(7,)),
        Geometry(kind="clock", title="Midnight", numbers=(0, 0)),
        Tokens(kind="tokens", rows=("3 green triangle", "1 blue circle", "2 red square")),
    ],
    ids=lambda sketch: sketch.kind,
)
def test_small_sketches_leave_marks(sketch: Sketch) -> None:
    image = draw(sketch)
    assert ImageChops.difference(image, Image.new("RGB", image.size, "white")).getbbox() is not None
    assert look(sketch)


def test_the_clock_hands_tell_the_time() -> None:
    quarter = draw(Geometry(kind="clock", title="", numbers=(3, 15)))
    noon = draw(Geometry(kind="clock", title="", numbers=(12, 0)))
    assert quarter.getpixel((200, 126)) == (24, 24, 28)
    assert noon.getpixel((200, 126)) == (255, 255, 255)
    assert noon.getpixel((160, 80)) == (24, 24, 28)
