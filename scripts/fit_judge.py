"""Fit the offline judge's heads to labels and write `models/judge.npz`.

    python scripts/fit_judge.py --labels pyrit-1.1.0-py3-none-any.whl [--cache FILE]

The heads of harm and refusal are fitted to the wheel's human labels alone; those of sentence roles, unsafe requests
and the two levels to ours. The level heads are trained on out-of-fold guesses of "unsafe request", so that they
learn how far to trust them. Settings were chosen by the cross-validation that `measure_judge.py` reports.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from judge_labels import Array, Labels, Ours, Public, find_wheel, load_labels
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold

from safer_steer.actors.offline import reading
from safer_steer.actors.offline.encoders import Look
from safer_steer.actors.offline.reading import HarmByWords, Heads, Linear

MODEL = Path(__file__).parents[1] / "src/safer_steer/actors/offline/models/judge.npz"
INNER_FOLDS = 8
LEVEL_STRENGTH = 0.2
OWN_SHARE, SEED_SHARE = 3.0, 0.25  # requests made from seeds are many and alike


def classifier(
    features: Array,
    labels: Array,
    strength: float,
    *,
    scaled: bool,
    balanced: bool = False,
    shares: Array | None = None,
) -> Linear:
    """Logistic regression as a `Linear`; `strength` is sklearn's C, `shares` weigh the examples."""
    width = features.shape[1]
    mean, scale = (features.mean(0), features.std(0)) if scaled else (np.zeros(width), np.ones(width))
    scale = np.where(scale < 1e-6, 1.0, scale)
    model = LogisticRegression(C=strength, max_iter=5000, class_weight="balanced" if balanced else None)
    model.fit((features - mean) / scale, labels, sample_weight=shares)
    return linear(mean, scale, model.coef_.T, model.intercept_)


def linear(mean: Array, scale: Array, weight: Array, bias: Array) -> Linear:
    return Linear(*(np.asarray(part, dtype=np.float32) for part in (mean, scale, weight, bias)))


def fit_roles(labels: Labels) -> Linear:
    codes = np.array([reading.ROLES.index(role) for role in labels.roles])
    return classifier(labels.role_vectors, codes, 10.0, scaled=False, balanced=True)


def fit_harm(looks: list[Look], scores: Array) -> tuple[Linear, HarmByWords]:
    """Two ridges on the harm scores 0…1: on SmolLM2 states, and on words."""
    states = np.vstack([look.state for look in looks])
    mean, scale = states.mean(0), states.std(0) + 1e-3
    by_states = Ridge(alpha=2000.0).fit((states - mean) / scale, scores)
    idf = []
    for texts in ([look.case.answer for look in looks], [look.case.asked for look in looks]):
        seen = np.sum([reading.bag(text) > 0 for text in texts], axis=0)
        idf.append((np.log((1 + len(texts)) / (1 + seen)) + 1).astype(np.float32))
    words = np.vstack([reading.word_features(look, *idf) for look in looks])
    by_words = Ridge(alpha=1.0, solver="cholesky").fit(words, scores)
    return (
        linear(mean, scale, by_states.coef_[:, None], np.array([by_states.intercept_])),
        HarmByWords(*idf, by_words.coef_.astype(np.float32), float(by_words.intercept_)),
    )


def refusal_matrix(looks: list[Look], roles: Linear) -> Array:
    summaries = [reading.role_summary(roles.softmax(look.sentences)) for look in looks]
    return np.vstack([reading.refusal_features(*pair) for pair in zip(looks, summaries, strict=True)])


def fit_refusal(public: Public, roles: Linear, rows: Array | slice = slice(None)) -> Linear:
    return classifier(refusal_matrix(public.looks, roles)[rows], public.scores[rows].astype(int), 0.3, scaled=True)


def fit_unsafe(ours: Ours, rows: Array, labels: Labels) -> Linear:
    """Whether a request is unsafe: one example per group of ours, and the labelled requests."""
    firsts = rows[np.unique(ours.groups[rows], return_index=True)[1]]
    features = [reading.request_features(ours.looks[row]) for row in firsts]
    single = np.hstack([labels.request_vectors, labels.request_vectors])
    known = np.concatenate([ours.unsafe[firsts], labels.requests])
    shares = np.concatenate([np.full(len(firsts), OWN_SHARE), np.where(labels.from_seeds, SEED_SHARE, OWN_SHARE)])
    return classifier(np.vstack([*features, single]), known, 10.0, scaled=False, balanced=True, shares=shares)


def unsafe_chance(looks: list[Look], head: Linear) -> Array:
    guesses = head.softmax(np.vstack([reading.request_features(look) for look in looks]))[:, 0]
    return np.where([look.case.unsafe_dialogue for look in looks], guesses, 0.0)


def fit_glance(ours: Ours, rows: Array, states: Linear) -> Linear:
    """A ridge from the SmolLM2 states to both levels; standardised as the harm ridge is."""
    features = (np.vstack([ours.looks[row].state for row in rows]) - states.mean) / states.scale
    model = Ridge(alpha=1000.0).fit(features, np.stack([ours.safety[rows], ours.helpfulness[rows]], axis=1))
    return linear(states.mean, states.scale, model.coef_.T, model.intercept_)


@dataclass(frozen=True)
class PublicHeads:
    """The heads that never see our answers."""

    roles: Linear
    harm_by_states: Linear
    harm_by_words: HarmByWords
    refusal: Linear


def fit_public(labels: Labels) -> PublicHeads:
    roles = fit_roles(labels)
    return PublicHeads(roles, *fit_harm(labels.harm.looks, labels.harm.scores), fit_refusal(labels.refusal, roles))


def level_matrix(looks: list[Look], unsafe: Array, glances: Array, public: PublicHeads) -> Array:
    """What the level heads see, given the chance that each request is unsafe and the glance at each answer."""
    features = []
    for look, chance, glance in zip(looks, unsafe, glances, strict=True):
        roles = public.roles.softmax(look.sentences)
        summary = reading.role_summary(roles)
        no_answer = float(public.refusal.softmax(reading.refusal_features(look, summary))[0])
        by_states, by_words = float(public.harm_by_states(look.state)[0]), public.harm_by_words(look)
        offered = reading.offer_features(look, roles)
        compact = reading.compact_features(look, summary, by_states, by_words, no_answer, glance, offered)
        features.append(reading.level_features(compact, float(chance), look.case.unsafe_dialogue))
    return np.vstack(features)


def fit_ours(labels: Labels, rows: Array, public: PublicHeads) -> Heads:
    """All heads, those that learn from our answers on these rows.

    The level heads see each row through heads for unsafe requests and glances that were fitted without its group.
    """
    ours = labels.ours
    unsafe, glances = np.zeros(len(rows)), np.zeros((len(rows), 2))
    for inner, held in GroupKFold(INNER_FOLDS).split(rows, groups=ours.groups[rows]):
        looks = [ours.looks[row] for row in rows[held]]
        unsafe[held] = unsafe_chance(looks, fit_unsafe(ours, rows[inner], labels))
        glances[held] = fit_glance(ours, rows[inner], public.harm_by_states)(np.vstack([look.state for look in looks]))
    features = level_matrix([ours.looks[row] for row in rows], unsafe, glances, public)
    return Heads(
        roles=public.roles,
        harm_by_states=public.harm_by_states,
        harm_by_words=public.harm_by_words,
        refusal=public.refusal,
        unsafe=fit_unsafe(ours, rows, labels),
        glance=fit_glance(ours, rows, public.harm_by_states),
        safety=classifier(features, ours.safety[rows], LEVEL_STRENGTH, scaled=True),
        helpfulness=classifier(features, ours.helpfulness[rows], LEVEL_STRENGTH, scaled=True),
    )


def to_bytes(heads: Heads) -> bytes:
    """The content of `judge.npz`; equal heads give equal bytes."""
    arrays: dict[str, Array] = {}
    for name in reading.LINEAR_HEADS:
        head: Linear = getattr(heads, name)
        arrays |= {f"{name}.{part}": getattr(head, part) for part in ("mean", "scale", "weight", "bias")}
    words = heads.harm_by_words
    arrays |= {f"harm_by_words.{part}": getattr(words, part) for part in ("answer_idf", "asked_idf", "weight")}
    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays, **{"harm_by_words.bias": np.array(words.bias)})
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, help="the pyrit 1.1.0 wheel (default: the installed package)")
    parser.add_argument("--cache", type=Path, help="keep the encoded public labels in this file")
    options = parser.parse_args()
    labels = load_labels(find_wheel(options.labels), options.cache)
    data = to_bytes(fit_ours(labels, np.arange(len(labels.ours.looks)), fit_public(labels)))
    MODEL.parent.mkdir(exist_ok=True)
    MODEL.write_bytes(data)
    print(f"{MODEL.name}: {len(data):,} bytes, sha256 {hashlib.sha256(data).hexdigest()[:16]}")


if __name__ == "__main__":
    main()
