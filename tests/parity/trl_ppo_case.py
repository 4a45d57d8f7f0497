"""One update of PPO as TRL 1.12 makes it, the last version that has it: `python tests/parity/trl_ppo_case.py` writes trl_ppo.json.

It runs where TRL 1.12 is installed (benchmarks/.venvs/trl_ppo, see benchmarks/language.py); the test beside it reads what it wrote, since
no environment can hold two versions. Nets, answers and settings are those of this file in both.
"""

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

FILE = Path(__file__).parent / "trl_ppo.json"
PAD, EOS, WORDS = 0, 2, 12
PROMPTS = [[1, 3, 4], [1, 5], [1, 7, 8, 9], [1, 3]]
ANSWERS = {
    "to the limit": [[3, 5, 7, 9, 4, 6], [8, 3, 3, 10, 11, EOS], [4, 4, 5, 6, 7, 8], [9, 10, 3, 4, 5, 6]],
    "some end before": [[3, 5, EOS, PAD, PAD, PAD], [8, 3, 3, 10, 11, EOS], [EOS, PAD, PAD, PAD, PAD, PAD], [9, 10, 3, 4, EOS, PAD]],
}
KL, CLIP, VALUE_CLIP, VALUE_COEFFICIENT, DISCOUNT, LAMBDA, TEMPERATURE = 0.07, 0.1, 0.15, 0.3, 0.97, 0.9, 0.8


def shape(labels: int | None = None) -> Any:
    """Of all nets."""
    from transformers import GPT2Config

    none: dict[str, Any] = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    more: dict[str, Any] = {} if labels is None else {"num_labels": labels}
    return GPT2Config(
        n_layer=2, n_embd=16, n_head=2, n_positions=32, vocab_size=WORDS, pad_token_id=PAD, bos_token_id=1, eos_token_id=EOS, **none, **more
    )


def filled(net: Any, phase: float) -> Any:
    """The net with weights by formula, the same wherever they are computed."""
    with torch.no_grad():
        for number, (_, weight) in enumerate(sorted(net.named_parameters())):
            wave = torch.sin(0.7 * torch.arange(weight.numel(), dtype=torch.float64) + number + phase).view_as(weight)
            weight.copy_(0.25 * wave + (1.0 if weight.dim() == 1 else 0.0))
    return net


def policies() -> tuple[Any, Any, Any]:
    """The policy, the one that wrote (a little older), and the reference."""
    from transformers import GPT2LMHeadModel

    return tuple(filled(GPT2LMHeadModel(shape()), phase) for phase in (0.0, 0.05, 0.4))


def scorers() -> tuple[Any, Any]:
    """The critic and the reward model."""
    from transformers import GPT2ForSequenceClassification

    return tuple(filled(GPT2ForSequenceClassification(shape(1)), phase) for phase in (0.2, 0.9))


def update(answers: list[list[int]]) -> dict[str, Any]:
    """What TRL's trainer makes of these answers: everything up to its first gradient."""
    import tempfile

    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer  # pyright: ignore[reportMissingImports]

    (policy, wrote, reference), (critic, reward) = policies(), scorers()
    found: dict[str, Any] = {}

    def write(model: Any, queries: Tensor, *ignored: Any) -> tuple[Tensor, Tensor]:
        """The answers that are given, with the logits of who is said to have written them."""
        rows = [PROMPTS.index([token for token in row if token != PAD]) for row in queries.tolist()]
        found["rows"] = rows
        texts = torch.cat([queries, torch.tensor([answers[row] for row in rows])], 1)
        logits = ppo_trainer.forward(wrote, texts, PAD).logits[:, queries.shape[1] - 1 : -1]
        return texts, logits / (TEMPERATURE + 1e-7)

    whiten = ppo_trainer.masked_whiten

    def seen(values: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
        found["advantage"], found["whitened"] = values, torch.where(mask, whiten(values, mask, shift_mean), 0.0)
        return whiten(values, mask, shift_mean)

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0")),
        pad_token=f"w{PAD}", bos_token="w1", eos_token=f"w{EOS}", padding_side="left",
    )  # fmt: skip
    settings = PPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=len(PROMPTS), total_episodes=len(PROMPTS), num_ppo_epochs=1,
        num_mini_batches=1, response_length=len(answers[0]), kl_coef=KL, cliprange=CLIP, cliprange_value=VALUE_CLIP,
        vf_coef=VALUE_COEFFICIENT, gamma=DISCOUNT, lam=LAMBDA, temperature=TEMPERATURE, stop_token="eos", num_sample_generations=0,
        local_rollout_forward_batch_size=len(PROMPTS), report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False,
        save_strategy="no", disable_tqdm=True, whiten_rewards=False,
    )  # fmt: skip
    made = Dataset.from_list([{"input_ids": prompt} for prompt in PROMPTS])
    trainer = PPOTrainer(settings, tokenizer, policy, reference, reward, made, critic)

    def stepped(*ignored: Any) -> None:
        found["gradients"] = {
            part: {name: float(weight.grad.norm()) for name, weight in net.named_parameters() if weight.grad is not None}
            for part, net in (("policy", policy), ("critic", critic))
        }

    trainer.optimizer.step = stepped
    trainer.log = lambda metrics, *ignored: found.update(policy_loss=metrics["loss/policy_avg"], value_loss=metrics["loss/value_avg"])
    with patch.object(ppo_trainer, "batch_generation", write), patch.object(ppo_trainer, "masked_whiten", seen):
        trainer.train()
    order = sorted(range(len(PROMPTS)), key=found.pop("rows").__getitem__)
    for name in ("advantage", "whitened"):
        found[name] = found[name][order].tolist()
    return found


def main() -> None:
    """Write the file."""
    import trl

    FILE.write_text(json.dumps({"trl": trl.__version__} | {name: update(answers) for name, answers in ANSWERS.items()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
