"""The losses against plain implementations that compute every logit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from safer_steer.actors.local import DialogueTokenizer, LocalModel, linear
from safer_steer.config import GrpoConfig, LoraConfig, OldPolicy
from safer_steer.errors import ConfigError, StageError
from safer_steer.reward import Normalise, dialogue_weights
from safer_steer.train.batch import micro_batches, tokens_of
from safer_steer.train.export import save_merged
from safer_steer.train.loss import kl_k3, policy_loss, token_logprobs
from safer_steer.train.merged import merged_adapters
from safer_steer.train.policy import Policy, descend, lora_targets
from safer_steer.train.sft import Example
from safer_steer.train.trajectory import Group, Trajectory
from safer_steer.train.trunk import Trunk
from safer_steer.train.update import Updater
from tiny_vlm import tiny_processor, tiny_student

LORA = LoraConfig(rank=4, alpha=8)
EVERY, UPPER = ("q_proj", "v_proj", "up_proj"), (r"layers\.2\..*_proj",)
LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=6)


@pytest.fixture
def policy() -> Policy:
    return Policy(tiny_student(), tiny_processor(), LORA)


def stir(policy: Policy, seed: int = 1, size: float = 0.1) -> None:
    """Give the adapters weights that matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.trainable.values():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def trajectories() -> list[Trajectory]:
    rows = [
        ((20, 21, 22, 30, 31, 2), 3, 0.5),
        ((20, 21, 22, 40, 2), 3, -0.25),
        ((20, 50, 51, 52, 53, 54, 55, 2), 1, -0.25),
    ]
    return [
        Trajectory(
            ids=ids,
            mask=tuple(i >= start for i in range(len(ids))),
            logprobs=tuple(-3.0 if i >= start else 0.0 for i in range(len(ids))),
            spans=((start, len(ids)),),
            rewards=(0.0,),
            advantages=(advantage,),
            images=(),
        )
        for ids, start, advantage in rows
    ]


def naive_logprobs(model: nn.Module, ids: tuple[int, ...], temperature: float, banned: list[int]) -> Tensor:
    """(L − 1,) of every next token, from all the logits."""
    logits = model(input_ids=torch.tensor([ids])).logits[0, :-1] / temperature
    logits[:, banned] = -torch.inf
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def naive_grpo(policy: Policy, items: list[Trajectory], temperature: float, banned: list[int], beta: float) -> Tensor:
    """The paper's loss, a dialogue at a time, divided by the number of answer tokens."""
    total = torch.zeros(())
    for item in items:
        mask = torch.tensor(item.mask[1:])
        with policy.reference() as model:
            reference = naive_logprobs(model, item.ids, temperature, banned)
        now = naive_logprobs(policy.model, item.ids, temperature, banned)
        ratio = (now - torch.tensor(item.logprobs[1:])).exp()
        advantage = item.advantages[0]
        surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        total = total + ((beta * kl_k3(now, reference) - surrogate) * mask).sum()
    return total / sum(sum(item.mask) for item in items)


@pytest.mark.parametrize("chunk", [512, 3])
def test_sliced_logprobs_equal_the_full_ones(policy: Policy, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr("safer_steer.train.loss.CHUNK", chunk)
    stir(policy)
    items, banned = trajectories(), [1, 3]
    tokenizer = DialogueTokenizer.of(policy.processor)
    tokens = tokens_of(items, tokenizer, policy.device)
    ours = token_logprobs(policy.model, tokens, temperature=0.7, banned=torch.tensor(banned))
    naive = torch.cat(
        [naive_logprobs(policy.model, item.ids, 0.7, banned)[torch.tensor(item.mask[1:])] for item in items]
    )
    assert torch.allclose(ours, naive, atol=1e-5)
    assert tokens.next_ids.tolist() == [30, 31, 2, 40, 2, 50, 51, 52, 53, 54, 55, 2]


@pytest.mark.parametrize(("micro_batch", "targets"), [(1, EVERY), (2, EVERY), (8, EVERY), (2, UPPER)])
def test_loss_and_gradient_equal_the_plain_implementation(micro_batch: int, targets: tuple[str, ...]) -> None:
    """Also when only upper layers learn, and the lower ones are computed once for reference and policy."""
    policy = Policy(tiny_student(), tiny_processor(), LORA.model_copy(update={"targets": targets}))
    policy.model.double()
    stir(policy)
    items, banned = trajectories(), [1, 3]
    config = GrpoConfig(
        beta=0.3, temperature=0.9, micro_batch=micro_batch, max_grad_norm=1e9, old_policy=OldPolicy.ROLLOUT
    )
    expected = naive_grpo(policy, items, 0.9, banned, beta=0.3)
    parameters = list(policy.trainable.values())
    gradients = torch.autograd.grad(expected, parameters)
    optimizer = torch.optim.SGD(parameters, lr=0.0)
    updater = Updater(policy, optimizer, DialogueTokenizer.of(policy.processor), banned, config)
    done = updater([Group("s", tuple(items), ((0.0,),) * 3)])
    # float32 where the sampling policy's log-softmax is taken, as in rollouts
    assert done.loss == pytest.approx(float(expected.detach()), abs=1e-6)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, gradient, atol=1e-6)
    assert done.kl > 0 and done.tokens == 12


@pytest.mark.parametrize("targets", [EVERY, UPPER])
def test_merged_adapters_give_the_loss_and_gradient_of_separate_ones(
    monkeypatch: pytest.MonkeyPatch, targets: tuple[str, ...]
) -> None:
    monkeypatch.setattr(linear, "SMALLEST", 1)
    policy = Policy(tiny_student(), tiny_processor(), LORA.model_copy(update={"targets": targets}))
    stir(policy)
    tokens = tokens_of(trajectories(), DialogueTokenizer.of(policy.processor), policy.device)
    weights = torch.linspace(-1, 1, len(tokens.next_ids))

    def told() -> tuple[Tensor, list[Tensor]]:
        logprobs = token_logprobs(policy.model, tokens, temperature=0.9, banned=torch.tensor([1, 3]))
        gradients = torch.autograd.grad((logprobs * weights).sum(), list(policy.trainable.values()))
        return logprobs.detach(), list(gradients)

    separate, expected = told()
    with merged_adapters(policy.model):
        merged, gradients = told()
        adapted = [module for module in policy.model.modules() if "forward" in vars(module)]
    assert len(adapted) == len(policy.trainable) // 2  # each layer learns two factors, and every layer was merged
    assert torch.allclose(merged, separate, atol=1e-5) and not torch.equal(merged, separate)
    for ours, theirs in zip(gradients, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5, rtol=1e-4)
    assert not [module for module in policy.model.modules() if "forward" in vars(module)]


def test_only_plain_adapters_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "SMALLEST", 1)
    policy = Policy(tiny_student(), tiny_processor(), LORA.model_copy(update={"targets": UPPER}))
    layer = next(module for module in policy.model.modules() if hasattr(module, "lora_dropout"))
    layer.lora_dropout["default"] = nn.Dropout(0.5)
    with policy.reference() as reference, merged_adapters(reference):  # switched off, there is nothing to merge
        assert not [module for module in reference.modules() if "forward" in vars(module)]
    with merged_adapters(policy.model):
        assert "forward" not in vars(layer)


@pytest.mark.parametrize("learns", [False, True])
def test_a_head_that_learns_gets_its_gradient_and_a_fixed_one_is_not_computed_again(
    monkeypatch: pytest.MonkeyPatch, learns: bool
) -> None:
    monkeypatch.setattr("safer_steer.train.loss.CHUNK", 5)
    policy = Policy(tiny_student(), tiny_processor(), LORA)
    stir(policy)
    head = policy.model.get_output_embeddings()  # type: ignore[operator]
    head.weight.requires_grad_(learns)
    tokens = tokens_of(trajectories(), DialogueTokenizer.of(policy.processor), policy.device)
    parameters = [p for p in policy.model.parameters() if p.requires_grad]
    logits = policy.model(input_ids=tokens.ids).logits[:, :-1][tokens.targets] / 0.7
    plain = torch.log_softmax(logits, -1).gather(-1, tokens.next_ids[:, None])[:, 0]
    expected = torch.autograd.grad(plain.square().sum(), parameters)
    ours = token_logprobs(policy.model, tokens, temperature=0.7)
    found = torch.autograd.grad(ours.square().sum(), parameters)
    assert torch.allclose(ours, plain, atol=1e-5)
    assert any(p is head.weight for p in parameters) is learns
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-4, rtol=1e-3)


def test_the_gradient_at_the_sampling_policy_is_the_papers(policy: Policy) -> None:
    """ρ = 1: the clipped surrogate's gradient is that of −A·log π, whatever the clip."""
    logprobs = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
    advantages, weights = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([0.25, 0.5, 1.0])
    result = policy_loss(logprobs, logprobs.detach(), None, advantages, weights, clip=0.2, beta=0.1)
    (gradient,) = torch.autograd.grad(result.loss, logprobs)
    assert gradient.tolist() == pytest.approx((-advantages * weights).tolist())
    assert (result.kl, result.clipped) == (0.0, 0)


def test_the_penalty_is_one_divergence_in_value_and_the_other_in_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, other = (torch.randn(6, dtype=torch.float64, generator=generator) for _ in range(2))
    now = torch.log_softmax(logits.requires_grad_(), 0)
    reference = torch.log_softmax(other, 0)
    sampled = now.detach().exp()  # exact expectation over the next token; samples do not move with π
    penalty = (sampled * kl_k3(now, reference)).sum()
    forward, backward = (now.exp() * (now - reference)).sum(), (reference.exp() * (reference - now)).sum()
    assert penalty.item() == pytest.approx(forward.item(), rel=1e-12)
    gradients = [torch.autograd.grad(of, logits, retain_graph=True)[0] for of in (penalty, forward, backward)]
    assert torch.allclose(gradients[0], gradients[2], rtol=0, atol=1e-12)
    assert not torch.allclose(gradients[0], gradients[1], rtol=0, atol=1e-2)


def test_clipping_stops_what_went_far_enough() -> None:
    sampled = torch.zeros(4)
    logprobs = torch.tensor([0.5, 0.5, -0.5, -0.5], requires_grad=True)
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    result = policy_loss(logprobs, sampled, None, advantages, torch.ones(4), clip=0.2, beta=0.0)
    (gradient,) = torch.autograd.grad(result.loss, logprobs)
    assert [value == 0 for value in gradient.tolist()] == [True, False, False, True]
    assert result.clipped == 2


def test_kl_is_zero_before_training_and_the_reference_stays(policy: Policy) -> None:
    tokens = tokens_of(trajectories(), DialogueTokenizer.of(policy.processor), policy.device)
    with policy.reference() as model:
        before = token_logprobs(model, tokens)
    assert torch.allclose(before, token_logprobs(policy.model, tokens), atol=1e-6)
    stir(policy)
    with policy.reference() as model:
        assert torch.allclose(before, token_logprobs(model, tokens), atol=1e-6)
    assert float(kl_k3(token_logprobs(policy.model, tokens), before).mean().detach()) > 1e-4


def test_full_training_keeps_a_frozen_copy_and_frozen_eyes() -> None:
    policy = Policy(tiny_student(), tiny_processor(), None)
    assert policy.trainable and not any("vision" in name or "projector" in name for name in policy.trainable)
    tokens = tokens_of(trajectories(), DialogueTokenizer.of(policy.processor), policy.device)
    with policy.reference() as model:
        before = token_logprobs(model, tokens)
    token_logprobs(policy.model, tokens).sum().backward()
    torch.optim.SGD(policy.trainable.values(), lr=0.01).step()
    with policy.reference() as model:
        assert torch.allclose(before, token_logprobs(model, tokens), atol=1e-6)
    assert not torch.allclose(before, token_logprobs(policy.model, tokens))


@pytest.mark.parametrize("lora", [LORA, None])
def test_a_saved_policy_loads_as_an_ordinary_model(tmp_path: Path, lora: LoraConfig | None) -> None:
    policy = Policy(tiny_student(), tiny_processor(), lora)
    stir(policy)
    state = policy.state()
    save_merged(policy, tmp_path / "model")
    assert all(torch.equal(state[name], value) for name, value in policy.state().items())
    tokens = tokens_of(trajectories(), DialogueTokenizer.of(policy.processor), policy.device)
    loaded = LocalModel.load(tmp_path / "model")
    with torch.no_grad():
        theirs, ours = (token_logprobs(model, tokens) for model in (loaded.model, policy.model))
    assert torch.allclose(theirs, ours, atol=1e-5)
    assert not any("lora" in name for name in loaded.model.state_dict())


@given(LENGTHS, st.sampled_from(Normalise))
def test_weights_are_positive_and_the_named_sums(lengths: list[int], normalise: Normalise) -> None:
    weights = dialogue_weights(lengths, normalise, most_tokens=100)
    mass = sum(weight * length for weight, length in zip(weights, lengths, strict=True))
    expected = {
        Normalise.PAPER: sum(lengths) / len(lengths),
        Normalise.GRPO: 1.0,
        Normalise.DAPO: 1.0,
        Normalise.DR_GRPO: sum(lengths) / len(lengths) / 100,
    }
    assert mass == pytest.approx(expected[normalise])
    assert min(weights) > 0


@given(LENGTHS, st.integers(1, 4))
def test_micro_batches_hold_every_dialogue_once(lengths: list[int], size: int) -> None:
    examples = [Example((0,) * length, (True,) * length, ()) for length in lengths]
    batches = micro_batches(examples, size)
    assert sorted(len(item.ids) for batch in batches for item in batch) == sorted(lengths)
    assert max(map(len, batches)) <= size
    assert len(batches) == -(-len(lengths) // size)


def test_adapters_go_where_they_are_named_and_never_into_the_eyes() -> None:
    model = tiny_student()
    every = lora_targets(model, ("q_proj", "up_proj"))
    assert len(every) == 6 and all("language_model.model.layers." in name for name in every)
    assert lora_targets(model, (r"layers\.2\..*[qk]_proj",)) == [
        "language_model.model.layers.2.self_attn.q_proj",
        "language_model.model.layers.2.self_attn.k_proj",
    ]
    for wrong in ("proj_q", "("):
        with pytest.raises(ConfigError, match=r"lora\.targets"):
            lora_targets(model, (wrong,))


@pytest.mark.parametrize(("targets", "layers"), [(EVERY, 0), (UPPER, 2), (None, 0)])
def test_the_trunk_ends_where_something_learns(targets: tuple[str, ...] | None, layers: int) -> None:
    lora = None if targets is None else LORA.model_copy(update={"targets": targets})
    policy = Policy(tiny_student(), tiny_processor(), lora)
    assert len(Trunk(policy.model).layers) == layers


def test_a_recorded_trunk_is_not_computed_again() -> None:
    policy = Policy(tiny_student(), tiny_processor(), LORA.model_copy(update={"targets": UPPER}))
    tokens = tokens_of(trajectories(), DialogueTokenizer.of(policy.processor), policy.device)
    trunk = Trunk(policy.model)
    with trunk.recording() as seen:
        before = token_logprobs(policy.model, tokens).detach()
    with torch.no_grad():
        for layer in trunk.layers:
            for parameter in layer.parameters():
                parameter.zero_()
    with trunk.replaying(seen):
        assert torch.allclose(token_logprobs(policy.model, tokens), before, atol=1e-6)
    assert not torch.allclose(token_logprobs(policy.model, tokens), before, atol=1e-2)


def test_a_gradient_that_is_not_finite_changes_nothing(policy: Policy) -> None:
    optimizer = torch.optim.SGD(policy.trainable.values(), lr=1.0)
    before = policy.state()
    for parameter in policy.trainable.values():
        parameter.grad = torch.full_like(parameter, torch.nan)
    with pytest.raises(StageError, match=r"not finite.*learning_rate"):
        descend(policy, optimizer, 1.0, "grpo")
    assert all(torch.equal(before[name], value) for name, value in policy.state().items())
