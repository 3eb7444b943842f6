"""The recipe: nothing unknown gets in, overrides say what they mean, and what is printed can be read back."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from safer_steer.config import Recipe, apply_override, load_recipe, recipe_from
from safer_steer.errors import ConfigError

RECIPES = Path(__file__).parents[1] / "src" / "safer_steer" / "recipes"
names = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
plain = (
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text("abc xyz", max_size=8) | st.lists(st.integers())
)
trees = st.dictionaries(names, st.dictionaries(names, st.integers(), max_size=3), max_size=3)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_we_ship_are_recipes_of_their_name(path: Path) -> None:
    assert load_recipe(path).name == path.stem


def test_an_empty_recipe_is_the_papers() -> None:
    recipe = recipe_from({})
    assert recipe == Recipe() == load_recipe(None)
    assert (recipe.grpo.samples, recipe.grpo.alpha, recipe.grpo.beta) == (5, 0.3, 0.1)
    assert (recipe.sft.learning_rate, recipe.sft.batch_size, recipe.sft.epochs) == (1e-5, 16, 2)
    assert (recipe.eval.safety_pass, recipe.eval.help_pass) == (2.8, 2.5)
    assert (recipe.grpo.divide_by_std, recipe.construction.success_filter, recipe.grpo.feedback) == (False, True, True)


@given(
    seed=st.integers(0, 10**6),
    samples=st.integers(2, 64),
    rate=st.floats(1e-9, 1, allow_nan=False),
    limit=st.none() | st.integers(1, 1000),
    feedback=st.booleans(),
    suite=st.from_regex(r"[a-z]{1,8}\.jsonl", fullmatch=True),
)
def test_overrides_round_trip(
    seed: int, samples: int, rate: float, limit: int | None, feedback: bool, suite: str
) -> None:
    wanted = {
        "seed": seed, "grpo.samples": samples, "sft.learning_rate": rate,
        "eval.limit": limit, "grpo.feedback": feedback, "eval.suite": suite,
    }  # fmt: skip
    recipe = recipe_from({}, [f"{key}={yaml.safe_dump(value).split(chr(10))[0]}" for key, value in wanted.items()])
    found = (recipe.seed, recipe.grpo.samples, recipe.sft.learning_rate)
    assert found == (seed, samples, rate)
    assert (recipe.eval.limit, recipe.grpo.feedback, recipe.eval.suite) == (limit, feedback, suite)
    assert Recipe.model_validate(yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json")))) == recipe


@given(trees, names, names, plain)
def test_an_override_sets_one_value_and_leaves_the_rest_and_the_input(
    values: dict[str, object], section: str, key: str, value: object
) -> None:
    before = copy.deepcopy(values)
    text = yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip()
    after = apply_override(values, f"{section}.{key}={text}")
    assert values == before
    assert after[section][key] == value
    assert {k: v for k, v in after.items() if k != section} == {k: v for k, v in before.items() if k != section}


def test_the_last_override_wins_and_a_section_can_be_given_whole() -> None:
    assert recipe_from({}, ["seed=1", "seed=2"]).seed == 2
    assert recipe_from({"seed": 5}, ["seed=0"]).seed == 0
    assert recipe_from({}, ["construction.benign_turns={low: 2, high: 9}"]).construction.benign_turns.high == 9
    assert recipe_from({}, ["sft.lora=null"]).sft.lora is None
    assert recipe_from({}, ["system_prompt=a=b"]).system_prompt == "a=b"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("grpo.sampels=3", "unknown key 'grpo.sampels'"),
        ("samples=3", "unknown key 'samples'"),
        ("grpo.lora.rank=0", "'grpo.lora.rank'"),
        ("grpo.alpha=1.5", "'grpo.alpha'"),
        ("grpo.shaping=tscr", "'grpo.shaping'"),
        ("grpo.max_turns=11", "'grpo.max_turns'"),
        ("construction.benign_turns={low: 5, high: 3}", "low=5 is above high=3"),
        ("construction.noise_sigma=.inf", "'construction.noise_sigma'"),
        ("sft.learning_rate=.nan", "'sft.learning_rate'"),
        ("eval.limit=0", "'eval.limit'"),
        ("eval=3", "'eval'"),
        ("seed", "section.key=value"),
        ("=3", "section.key=value"),
        ("grpo..samples=3", "section.key=value"),
        ("seed.a=3", "'seed' is not a section"),
        ("seed={", "not YAML"),
    ],
)
def test_a_wrong_override_names_what_is_wrong(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        recipe_from({"seed": 1}, [override])
    assert said in str(raised.value)


def test_all_problems_are_said_at_once_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("seeds: 1\ngrpo: {samples: 1, stepps: 2}\n")
    with pytest.raises(ConfigError) as raised:
        load_recipe(path)
    for part in (str(path), "unknown key 'seeds'", "'grpo.samples'", "unknown key 'grpo.stepps'"):
        assert part in str(raised.value)


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing yet\n")
    assert load_recipe(path) == Recipe()
