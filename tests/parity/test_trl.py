"""Supervised fine-tuning, reward model and DPO beside TRL's trainers: equal losses and gradients on equal batches of text.

TRL tokenizes, pads and collates the same strings itself, so that EOS, masks and shifts are compared too. Deliberate differences that the
tests arrange for: our score head has a bias and TRL's has none; our "ipo" is the paper's, and "ipo-mean" what TRL calls ipo; TRL ignores
label smoothing in DPO's own loss, where ours is cDPO.
"""

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from tests.learn.language.conftest import EOS, WORDS, generator, tokenizer  # noqa: F401, a fixture
from tutelage.equations.preferences import bradley_terry_loss
from tutelage.experience.text import Encoded, encoded
from tutelage.learn.language import dpo, reward_model, sft
from tutelage.nets.language import LanguageModel, ScoreModel, make_model

ADDRESSES = ["gpt2?layers=2&width=16&heads=2&context=32", "llama?layers=2&width=16&heads=2&context=32"]
PROMPTS = ["the cat", "the big dog and", "the", "the dog is big and the cat"]
CHOSEN = ["is good", "is good and good .", ".", "is big and good"]
REJECTED = ["is bad and bad .", "is bad", "is the dog bad .", "bad"]


def said(prompt: str, answer: str) -> Encoded:
    number = lambda text: [WORDS.index(word) for word in text.split()]
    return encoded(number(prompt), [*number(answer), EOS])


PAIRS = [(said(p, a), said(p, b)) for p, a, b in zip(PROMPTS, CHOSEN, REJECTED, strict=True)]
TEXTS = Dataset.from_list(
    [{"prompt": p, "chosen": " " + a, "rejected": " " + b} for p, a, b in zip(PROMPTS, CHOSEN, REJECTED, strict=True)]
)


@pytest.fixture(params=ADDRESSES, ids=["gpt2", "llama"])
def policy(request: pytest.FixtureRequest, tokenizer: Any) -> LanguageModel:  # noqa: F811
    return louder(make_model(request.param, generator(), tokenizer))


def louder(net: Any) -> Any:
    """Fresh nets say nearly the same of every word; with five times their weights they have opinions."""
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(5.0 if weight.dim() > 1 else 1.0)
    return net


def theirs_of(policy: LanguageModel) -> Any:
    net = AutoModelForCausalLM.from_config(policy.config)
    net.load_state_dict(policy.module.state_dict())
    return net


def settings(kind: Any, where: Path, **more: Any) -> Any:
    """Of a trainer whose batch is everything."""
    return kind(
        output_dir=str(where), per_device_train_batch_size=len(PAIRS), report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False,
        disable_tqdm=True, **more,
    )  # fmt: skip


def loss_and_gradient(trainer: Any, net: Any) -> tuple[float, dict[str, Tensor]]:
    loss = trainer.compute_loss(net, next(iter(trainer.get_train_dataloader())))
    loss.backward()
    return float(loss.detach()), {name: weight.grad for name, weight in net.named_parameters() if weight.grad is not None}


def assert_equal(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], names: Mapping[str, str] | None = None) -> None:
    """names: ours by theirs, where they differ."""
    assert theirs and max(float(gradient.abs().max()) for gradient in theirs.values()) > 1e-3
    for name, gradient in theirs.items():
        own = ours[(names or {}).get(name, name)]
        torch.testing.assert_close(own.view_as(gradient), gradient, atol=1e-5, rtol=1e-5)


def gradients(net: Any) -> dict[str, Tensor]:
    return {name: weight.grad for name, weight in net.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("prompt_loss", [False, True])
def test_supervised_fine_tuning(policy: LanguageModel, tokenizer: Any, tmp_path: Path, prompt_loss: bool):  # noqa: F811
    net = theirs_of(policy)
    made = Dataset.from_list([{"prompt": p, "completion": " " + a} for p, a in zip(PROMPTS, CHOSEN, strict=True)])
    how = settings(SFTConfig, tmp_path, completion_only_loss=not prompt_loss)
    loss, theirs = loss_and_gradient(SFTTrainer(net, how, train_dataset=made, processing_class=tokenizer), net)

    config = sft.Config(batch_size=len(PAIRS), prompt_loss=prompt_loss)
    learner: Any = sft.SFT(config, policy, [chosen for chosen, _ in PAIRS], generator())
    learner.descent.step = lambda *ignored: {}
    assert learner.update()["loss"] == pytest.approx(loss, abs=1e-5)
    assert_equal(gradients(policy.module), theirs)


@pytest.mark.parametrize("margins", [None, (0.5, 0.0, 1.0, 2.0)], ids=["plain", "margins"])
@pytest.mark.parametrize("center", [0.0, 0.01])
def test_reward_model(policy: LanguageModel, tokenizer: Any, tmp_path: Path, margins: tuple[float, ...] | None, center: float):  # noqa: F811
    own = ScoreModel.of(policy, generator(3))
    shape = copy.deepcopy(policy.config)
    shape.num_labels, shape.pad_token_id = 1, tokenizer.pad_token_id
    net = AutoModelForSequenceClassification.from_config(shape)
    net.base_model.load_state_dict(own.backbone.state_dict())
    with torch.no_grad():
        net.score.weight.copy_(own.weight[None])
    made = TEXTS if margins is None else TEXTS.add_column("margin", list(margins))
    how = settings(RewardConfig, tmp_path, center_rewards_coefficient=center or None)
    loss, theirs = loss_and_gradient(RewardTrainer(net, how, train_dataset=made, processing_class=tokenizer), net)

    rankings = [reward_model.Ranking(pair, (1, 2), margin) for pair, margin in zip(PAIRS, margins or (0.0,) * len(PAIRS), strict=True)]
    learner: Any = reward_model.RewardModel(reward_model.Config(batch_size=len(PAIRS), center=center), [own], rankings, generator())
    learner.descents[0].step = lambda *ignored: {}
    assert learner.update()["loss"] == pytest.approx(loss, abs=1e-5)
    prefix = net.base_model_prefix
    assert_equal(gradients(own), theirs, {name: name.replace(f"{prefix}.", "backbone.").replace("score.", "") for name in theirs})


LOSSES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dpo": ({}, {"loss_type": "sigmoid"}),
    "robust": ({"label_smoothing": 0.2}, {"loss_type": "robust", "label_smoothing": 0.2}),
    "ipo-mean": ({}, {"loss_type": "ipo"}),
    "hinge": ({}, {"loss_type": "hinge"}),
    "dpo-norm": ({}, {"loss_type": "sigmoid_norm"}),
}


def dpo_trainer(policy: LanguageModel, reference: LanguageModel, tokenizer: Any, where: Path, **more: Any) -> tuple[Any, Any]:  # noqa: F811
    net = theirs_of(policy)
    how = settings(DPOConfig, where, beta=0.3, **more)
    return DPOTrainer(net, theirs_of(reference), args=how, train_dataset=TEXTS, processing_class=tokenizer), net


def our_dpo(policy: LanguageModel, reference: LanguageModel, **more: Any) -> Any:
    learner: Any = dpo.DPO(dpo.Config(beta=0.3, batch_size=len(PAIRS), **more), policy, PAIRS, generator(), reference)
    learner.descent.step = lambda *ignored: {}
    return learner


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("cached", [False, True], ids=["live", "cached"])
def test_direct_preference_optimization(policy: LanguageModel, tokenizer: Any, tmp_path: Path, loss: str, cached: bool):  # noqa: F811
    reference = louder(make_model(ADDRESSES["llama" in type(policy.module).__name__.lower()], generator(5), tokenizer))
    own, others = LOSSES[loss]
    trainer, net = dpo_trainer(policy, reference, tokenizer, tmp_path, precompute_ref_log_probs=cached, **others)
    found, theirs = loss_and_gradient(trainer, net)
    learner = our_dpo(policy, reference, loss=loss, live_reference=not cached, **own)
    assert learner.update()["loss"] == pytest.approx(found, abs=1e-5)
    assert_equal(gradients(policy.module), theirs)


def test_label_smoothing_changes_our_dpo_and_not_theirs(policy: LanguageModel, tokenizer: Any, tmp_path: Path):  # noqa: F811
    """What is compared with TRL stops here: cDPO's loss is checked against its own formula, from TRL's own margins."""
    reference = louder(make_model(ADDRESSES["llama" in type(policy.module).__name__.lower()], generator(5), tokenizer))
    losses = [
        loss_and_gradient(*dpo_trainer(policy, reference, tokenizer, tmp_path, loss_type="sigmoid", label_smoothing=smoothing))[0]
        for smoothing in (0.0, 0.3)
    ]
    assert losses[0] == losses[1]
    trainer, net = dpo_trainer(policy, reference, tokenizer, tmp_path, loss_type="hinge")
    with torch.no_grad():
        batch = next(iter(trainer.get_train_dataloader()))
        logp = [
            torch.log_softmax(one(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1], -1)
            .gather(2, batch["input_ids"][:, 1:, None])[..., 0]
            .mul(batch["completion_mask"][:, 1:])
            .sum(1)
            for one in (net, trainer.ref_model)
        ]
    chosen, rejected = (logp[0] - logp[1]).chunk(2)
    expected = bradley_terry_loss(0.3 * (chosen - rejected), torch.ones(len(PAIRS)), label_smoothing=0.3).mean()
    assert our_dpo(policy, reference, label_smoothing=0.3).update()["loss"] == pytest.approx(float(expected), abs=1e-5)
    assert abs(float(expected) - losses[0]) > 1e-2
