"""Our GRPO update against TRL's on the same batch: several turns, pictures, clipped ratios and a reference."""

from __future__ import annotations

import copy
import io
import random
from pathlib import Path

import pytest
import torch
from PIL import Image

from safer_steer.actors.local import DialogueTokenizer
from safer_steer.config import GrpoConfig, OldPolicy
from safer_steer.dialogue import ImageRef
from safer_steer.image_store import ImageStore
from safer_steer.reward import Normalise
from safer_steer.train.policy import Policy
from safer_steer.train.trajectory import Group, Trajectory
from safer_steer.train.update import Updater
from tiny_vlm import END, tiny_processor, tiny_student

pytest.importorskip("trl")
from trl_peer import LOSS_TYPES, trl_inputs, trl_logprobs, trl_trainer

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL's


def dialogues(tokenizer: DialogueTokenizer, image: ImageRef) -> list[Trajectory]:
    """Four dialogues of one to three turns, each with the picture, credited turn by turn."""
    rng, made = random.Random(0), []
    assert tokenizer.images is not None
    for turns in (1, 2, 3, 2):
        ids, spans = list(tokenizer.images.read(image).ids), []
        for _ in range(turns):
            ids += rng.choices(range(10, 250), k=rng.randint(3, 6))
            length = rng.randint(2, 5)
            spans.append((len(ids), len(ids) + length))
            ids += [*rng.choices(range(10, 250), k=length - 1), END]
        mask = tuple(any(start <= place < stop for start, stop in spans) for place in range(len(ids)))
        made.append(
            Trajectory(
                ids=tuple(ids),
                mask=mask,
                logprobs=tuple(rng.uniform(-8, -4) if mine else 0.0 for mine in mask),
                spans=tuple(spans),
                rewards=(0.0,) * turns,
                advantages=tuple(rng.uniform(-1, 1) for _ in range(turns)),
                images=(image,),
            )
        )
    return made


@pytest.mark.parametrize("normalise", list(LOSS_TYPES))
def test_loss_and_gradients_are_trls(tmp_path: Path, normalise: Normalise) -> None:
    config = GrpoConfig(
        normalise=normalise,
        beta=0.3,
        temperature=0.9,
        max_tokens=6,
        max_turns=3,
        micro_batch=2,
        max_grad_norm=1e9,
        old_policy=OldPolicy.ROLLOUT,
    )
    data, store = io.BytesIO(), ImageStore(tmp_path)
    Image.new("RGB", (40, 30), "orange").save(data, "PNG")
    policy = Policy(tiny_student(), tiny_processor(), None)
    tokenizer = DialogueTokenizer.of(policy.processor, store)
    items = dialogues(tokenizer, store.put(data.getvalue()))

    theirs = copy.deepcopy(policy.model)  # before anything moves: the reference
    trainer = trl_trainer(theirs, policy.processor, config, tmp_path / "trl", checkpointing=False)
    assert tokenizer.images is not None
    inputs = trl_inputs(items, tokenizer.images.tensors([item.images[0] for item in items]), END)
    inputs["ref_per_token_logps"] = trl_logprobs(trainer, theirs, inputs)

    with torch.no_grad():
        shifts = torch.Generator().manual_seed(1)
        for name, parameter in policy.trainable.items():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=shifts))
            theirs.get_parameter(name).copy_(parameter)
    expected = trainer._compute_loss(theirs, inputs)
    expected.backward()

    optimizer = torch.optim.SGD(policy.trainable.values(), lr=0.0)
    done = Updater(policy, optimizer, tokenizer, [], config)([Group("s", tuple(items), ((0.0,),) * len(items))])
    assert done.clipped > 0 and done.kl > 0.01
    assert done.loss == pytest.approx(float(expected), abs=1e-6)
    largest = 0.0
    for name, parameter in policy.trainable.items():
        gradient = theirs.get_parameter(name).grad
        assert parameter.grad is not None and gradient is not None, name
        assert torch.allclose(parameter.grad, gradient, rtol=1e-5, atol=1e-6), name
        largest = max(largest, float(gradient.abs().max()))
    assert largest > 1e-3
