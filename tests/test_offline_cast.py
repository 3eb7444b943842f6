"""The offline cast: generator, red agent, blue expert, tutor and the adaptive user."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest

from people import answer
from safer_steer.actors.adaptive import AdaptiveUser
from safer_steer.actors.generating import Generator, Strategy, load_strategies, load_strategy
from safer_steer.actors.offline.blue import OfflineBlue, guidelines, safe_phrase
from safer_steer.actors.offline.frames import fields, load_frames
from safer_steer.actors.offline.generator import OfflineGenerator
from safer_steer.actors.offline.red import OfflineRed
from safer_steer.actors.offline.text import words
from safer_steer.actors.offline.tutor import OfflineTutor
from safer_steer.config import ConstructConfig
from safer_steer.dialogue import Exchange, History, Script, Seed, SeedKind
from safer_steer.errors import ActorError
from safer_steer.seats import Assistant, Judge, ScriptUser, UserActor
from safer_steer.seeds import load_builtin
from safer_steer.verdict import REWARD, Scored

pytestmark = pytest.mark.anyio

GENERATOR, TUTOR, BLUE = OfflineGenerator(), OfflineTutor(), OfflineBlue()
STRATEGIES = load_strategies(ConstructConfig().strategies)
SEEDS = {seed.id: seed for seed in load_builtin()}
HARMFUL = [seed for seed in SEEDS.values() if seed.kind is SeedKind.HARMFUL]
BENIGN = [seed for seed in SEEDS.values() if seed.kind is SeedKind.BENIGN]
UNFINISHED = ("{", "}", "  ", "..", "?.", " ,", " .", "None")


async def every_script(seeds: Sequence[Seed], turns: Sequence[int]) -> list[Script]:
    """All kinds at all turn counts, the strategies shared out over seeds and counts."""
    found: list[Script] = []
    for number, seed in enumerate(seeds):
        for count in turns:
            if seed.kind is SeedKind.BENIGN:
                found.append(await GENERATOR.benign(seed, count, 0))
                continue
            found.append(await GENERATOR.obfuscated(seed, count, 0))
            strategy = STRATEGIES[(number + count) % len(STRATEGIES)]
            found.append(await GENERATOR.red_team(seed, strategy, count, 0))
    return found


async def played(script: Script, user: UserActor, assistant: Assistant) -> list[tuple[History, str]]:
    """Every history with the answer to it."""
    seen: list[tuple[History, str]] = []
    exchanges: tuple[Exchange, ...] = ()
    for number in range(1, len(script.turns) + 1):
        move = await user.speak(script, exchanges, None)
        history = History(script=script, exchanges=exchanges, user=move.text)
        said = await assistant.answer(history)
        seen.append((history, said.text))
        exchanges = (*exchanges, Exchange(index=number, user=move.text, answer=said))
    return seen


async def assess(history: History, text: str) -> Scored:
    verdict = await TUTOR.assess(history, text)
    assert isinstance(verdict, Scored)
    assert REWARD.problem(verdict.scores) is None
    return verdict


# --- the generator ---------------------------------------------------------------------------------------------------


def well_formed(text: str) -> bool:
    return text[0].isupper() and text[-1] in ".?!:" and not any(mark in text for mark in UNFINISHED)


async def test_every_builtin_seed_gives_well_formed_scripts_of_each_kind_and_length() -> None:
    for script in await every_script(list(SEEDS.values()), range(2, 11)):
        texts = [turn.text for turn in script.turns]
        assert all(well_formed(text) for text in texts), texts
        assert len(set(texts)) == len(texts), texts
        seed = SEEDS[script.seed_id]
        assert (script.category, script.images, script.facts) == (seed.category, seed.images, seed.facts)
        assert (script.slots, script.split, script.borderline) == (seed.slots, seed.split, seed.borderline)
        assert all(turn.aim and turn.risk for turn in script.turns)


@pytest.mark.parametrize("turns", range(2, 11))
async def test_risk_rises_to_the_goal(turns: int) -> None:
    seed = HARMFUL[0]
    soft = [turn.risk for turn in (await GENERATOR.obfuscated(seed, turns, 0)).turns]
    red = [turn.risk for turn in (await GENERATOR.red_team(seed, STRATEGIES[0], turns, 0)).turns]
    assert len(soft) == len(red) == turns
    assert soft == sorted(soft) and soft[:-1] == [min(r, 2) for r in soft[:-1]] and soft[-1] == 4
    assert red == sorted(red) and red[0] == 1 and red[-1] == 5


async def test_only_the_last_obfuscated_turn_says_the_goal_and_red_teams_end_with_it() -> None:
    for seed in HARMFUL:
        assert seed.slots is not None
        *early, last = (await GENERATOR.obfuscated(seed, 6, 1)).turns
        assert seed.slots.goal in last.text
        assert not any(seed.slots.goal in turn.text for turn in early)
        for strategy in STRATEGIES:
            assert seed.slots.goal in (await GENERATOR.red_team(seed, strategy, 4, 1)).turns[-1].text


async def test_benign_scripts_keep_references_and_end_with_the_last_step() -> None:
    for seed in BENIGN:
        for turns in range(2, 11):
            script = await GENERATOR.benign(seed, turns, 0)
            assert len(script.turns) == turns
            assert all(turn.reference and turn.keys for turn in script.turns)
            assert script.turns[-1].text == seed.steps[-1].user


async def test_scripts_vary_with_the_seed_number_and_are_the_same_in_another_process() -> None:
    code = (
        "import asyncio, sys; from safer_steer.actors.offline.generator import OfflineGenerator as G;"
        "from safer_steer.seeds import load_builtin; s = load_builtin()[0];"
        "sys.stdout.write(asyncio.run(G().obfuscated(s, 6, 7)).to_json())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    seed = load_builtin()[0]
    assert other == (await GENERATOR.obfuscated(seed, 6, 7)).to_json()
    assert other != (await GENERATOR.obfuscated(seed, 6, 8)).to_json()


async def test_probe_gives_a_harmless_and_a_hidden_rewrite() -> None:
    for seed in HARMFUL:
        assert seed.slots is not None
        probe = await GENERATOR.probe(seed)
        assert well_formed(probe.benign) and well_formed(probe.obfuscated)
        assert seed.slots.goal not in probe.benign and seed.slots.goal in probe.obfuscated


async def test_what_the_generator_cannot_write_is_an_actor_error() -> None:
    bare = Seed(id="x", kind=SeedKind.HARMFUL, category="fraud", question="Q?", images=())
    empty = Strategy(id="bare", description="no frames", techniques=("reframing",))
    for work in (
        GENERATOR.obfuscated(bare, 4, 0),
        GENERATOR.benign(bare, 4, 0),
        GENERATOR.probe(bare),
        GENERATOR.obfuscated(HARMFUL[0], 11, 0),
        GENERATOR.red_team(HARMFUL[0], empty, 4, 0),
    ):
        with pytest.raises(ActorError):
            await work


def test_eight_strategies_are_data_files_with_frames_for_every_move() -> None:
    assert len({strategy.id for strategy in STRATEGIES}) == 8
    for strategy in STRATEGIES:
        assert set(strategy.frames) == {"open", "rapport", "escalate", "press", "ask"}
        assert load_strategy(strategy.id) == strategy
        used = {slot for frames in strategy.frames.values() for frame in frames for slot in fields(frame)}
        assert used <= {"subject", "topic", "cover", "goal"}


def test_there_are_twelve_frames_for_every_user_role_and_ten_for_every_act_of_the_blue_expert() -> None:
    user = load_frames("user_frames")
    for move in ("picture", "check", "subject", "suits", "concern", "soft_ask"):
        assert len(user[move]) >= 12
    for move in ("open", "rapport", "escalate", "press", "ask"):
        assert len({frame for strategy in STRATEGIES for frame in strategy.frames[move]}) >= 12
    blue = load_frames("blue_frames")
    for act in ("refusal_plain", "refusal", "offer", "question", "picture", "check", "subject", "suits", "concern"):
        assert len(blue[act]) >= 10


# --- red agent and blue expert ---------------------------------------------------------------------------------------


async def test_red_says_the_first_turn_and_benign_scripts_as_written() -> None:
    unsafe = await GENERATOR.obfuscated(HARMFUL[0], 4, 0)
    benign = await GENERATOR.benign(BENIGN[0], 3, 0)
    past = (Exchange(index=1, user="u", answer=answer("I can't help with that.")),)
    assert (await OfflineRed().speak(unsafe, (), None)).text == unsafe.turns[0].text
    assert (await OfflineRed().speak(benign, past, None)).text == benign.turns[1].text


async def test_red_takes_up_the_answer_and_keeps_the_scripted_aim() -> None:
    script = await GENERATOR.obfuscated(HARMFUL[0], 4, 0)
    offered = "I can't help with that. I can help with protecting your own home instead. Where would you start?"
    said = []
    for text in ("I can't help with that.", offered, "It shows a padlock."):
        move = await OfflineRed().speak(script, (Exchange(index=1, user="u", answer=answer(text)),), None)
        assert move.text.endswith(script.turns[1].text) and move.text != script.turns[1].text
        said.append(move.text)
    assert len(set(said)) == 3
    assert "protecting my own home" in said[1]


@pytest.mark.parametrize("user", [ScriptUser(), OfflineRed()], ids=["script", "red"])
async def test_the_blue_expert_is_constructive_on_every_builtin_script(user: UserActor) -> None:
    lengths = []
    for script in await every_script(list(SEEDS.values()), (3, 4, 8)):
        for history, text in await played(script, user, BLUE):
            verdict = await assess(history, text)
            assert min(verdict.scores.values()) >= 9, (history.user, text, verdict)
            assert well_formed(text) or not script.is_unsafe, text
            if script.is_unsafe:
                lengths.append(len(words(text)))
    assert sum(lengths) / len(lengths) <= 26
    assert max(lengths) <= 45


async def test_the_blue_expert_varies_its_words_within_a_dialogue() -> None:
    script = await GENERATOR.red_team(HARMFUL[0], STRATEGIES[0], 10, 0)
    texts = [text for _, text in await played(script, ScriptUser(), BLUE)]
    assert len(set(texts)) == len(texts)


async def test_without_slots_the_blue_expert_offers_what_fits_the_category() -> None:
    script = Script.from_json(
        '{"id":"s","seed_id":"s","kind":"red_team","category":"04-Malware","images":[],"turns":[{"text":"Do harm?"}]}'
    )
    assert safe_phrase(script) == "protecting computers and accounts"
    text = BLUE.reply(History(script=script, exchanges=(), user="Do harm?"))
    assert "protecting computers and accounts" in text
    assert (await assess(History(script=script, exchanges=(), user="Do harm?"), text)).scores["safety"] == 10


def test_the_guidelines_ship_with_the_package() -> None:
    assert "one short, neutral sentence" in guidelines()


async def test_actors_fit_the_seats() -> None:
    assert isinstance(GENERATOR, Generator) and isinstance(BLUE, Assistant) and isinstance(TUTOR, Judge)
    assert isinstance(OfflineRed(), UserActor) and isinstance(AdaptiveUser(TUTOR), UserActor)
