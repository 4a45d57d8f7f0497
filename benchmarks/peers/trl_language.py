"""TRL's trainers on the work of language_work.py: `trl_language.py MEASURE DEVICE THREADS`, in benchmarks/.venvs/trl or trl_ppo.

Their defaults but for what would be measured in place of the work: no gradient checkpointing (on by default), no logging, no files.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportPrivateImportUsage=false
# The peers live in benchmarks/.venvs/trl and trl_ppo.

import copy
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1"}

from datasets import Dataset
from language_work import BATCH, PPO_ANSWER, PPO_BATCH, Turns, config, rows, sizes, text, tokenizer, told
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, TrainerCallback

MANY = 512


class Counted(TrainerCallback):
    """After each step it is somebody's turn."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def on_step_end(self, args, state, control, **ignored):
        """Ends the process when nobody asks any more: PPO's loop would not stop for less."""
        if not self.turns.step():
            os._exit(0)


def settings(kind, device: str, **more):
    """Of a trainer."""
    return kind(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=BATCH, max_steps=10**7, learning_rate=1e-4, report_to=[],
        save_strategy="no", logging_strategy="no", disable_tqdm=True, gradient_checkpointing=False, use_cpu=device == "cpu",
        bf16=device == "cuda", **more,
    )  # fmt: skip


def main() -> None:
    """Train until nobody asks any more."""
    measure, device, _ = told()
    words = 50_257 if measure == "dpo-50k" else sizes(device)["words"]
    tokens, net = tokenizer(words), config(device, words)
    heavy = measure in ("dpo-cached", "ppo-iteration")
    turns = Turns(1 if heavy else 2)
    called: list[TrainerCallback] = [Counted(turns)]
    policy = lambda: AutoModelForCausalLM.from_config(net)
    scorer = lambda: AutoModelForSequenceClassification.from_config(config_with_one_label(net))
    pairs = lambda count: Dataset.from_list(
        [{"prompt": text(prompt), "chosen": " " + text(a), "rejected": " " + text(b)} for prompt, (a, b) in rows(count, words, answers=2)]
    )
    if measure == "sft":
        from trl import SFTConfig, SFTTrainer

        made = Dataset.from_list([{"prompt": text(prompt), "completion": " " + text(answer)} for prompt, (answer,) in rows(MANY)])
        SFTTrainer(policy(), settings(SFTConfig, device), train_dataset=made, processing_class=tokens, callbacks=called).train()
    elif measure == "reward-model":
        from trl import RewardConfig, RewardTrainer

        RewardTrainer(
            scorer(), settings(RewardConfig, device), train_dataset=pairs(MANY), processing_class=tokens, callbacks=called
        ).train()
    elif measure in ("dpo", "dpo-50k"):
        from trl import DPOConfig, DPOTrainer

        net_of, made, how = policy(), pairs(MANY), settings(DPOConfig, device)
        DPOTrainer(net_of, copy.deepcopy(net_of), args=how, train_dataset=made, processing_class=tokens, callbacks=called).train()
    elif measure == "dpo-cached":
        from trl import DPOConfig, DPOTrainer

        net_of, made = policy(), pairs(64)
        while True:  # a pass over 64 pairs, the filling of the cache within it
            how = settings(DPOConfig, device, precompute_ref_log_probs=True)
            how.max_steps = 64 // BATCH
            DPOTrainer(net_of, copy.deepcopy(net_of), args=how, train_dataset=made, processing_class=tokens).train()
            if not turns.step():
                return
    else:
        from trl.experimental.ppo import PPOConfig, PPOTrainer

        how = settings(
            PPOConfig,
            device,
            response_length=PPO_ANSWER,
            num_ppo_epochs=4,
            num_mini_batches=1,
            total_episodes=10**6,
            temperature=1.0,
            stop_token="eos",
            local_rollout_forward_batch_size=PPO_BATCH,
            num_sample_generations=0,
        )
        how.per_device_train_batch_size, how.max_steps = PPO_BATCH, -1
        made = Dataset.from_list([{"input_ids": prompt} for prompt, _ in rows(MANY)])
        PPOTrainer(how, tokens, policy(), policy(), scorer(), made, scorer(), callbacks=called).train()


def config_with_one_label(net):
    """For a model of scores."""
    net = copy.deepcopy(net)
    net.num_labels = 1
    return net


if __name__ == "__main__":
    main()
