"""What language.py measures of this library, and `generate` of transformers: `language_ours.py MEASURE DEVICE THREADS`."""

from collections.abc import Callable

import torch
from language_work import BATCH, LENGTH, PPO_ANSWER, PPO_BATCH, SAMPLES, config, rows, serve, sizes, tokenizer, told
from torch import Generator

from tutelage.experience.text import encoded
from tutelage.learn.language import dpo, ppo_lm, reward_model, sft
from tutelage.learn.language.writing import Asked, Sampling
from tutelage.nets.language import LanguageModel, ScoreModel, make_model
from tutelage.nets.sampling import sample
from tutelage.rewards.text import LearnedTextReward


def model(device: str, words: int = 8192) -> LanguageModel:
    size = sizes(device, words)
    address = f"gpt2?layers={size['layers']}&width={size['width']}&heads={size['heads']}&context={size['context']}"
    precision = torch.bfloat16 if device == "cuda" else None
    return make_model(address, Generator().manual_seed(0), tokenizer(size["words"]), activations=precision, device=device)


def work(measure: str, device: str) -> Callable[[], object]:
    g = Generator().manual_seed(1)
    many = 512
    if measure == "sft":
        texts = [encoded(prompt, answer) for prompt, (answer,) in rows(many)]
        return sft.SFT(sft.Config(epochs=10**6, batch_size=BATCH, learning_rate=1e-4), model(device), texts, g).update
    if measure == "reward-model":
        ranked = [reward_model.Ranking(tuple(encoded(prompt, answer) for answer in two), (0, 1)) for prompt, two in rows(many, answers=2)]
        scorer = ScoreModel.of(model(device), g)
        return reward_model.RewardModel(reward_model.Config(epochs=10**6, batch_size=BATCH), [scorer], ranked, g).update
    if measure in ("dpo", "dpo-50k"):
        words = 50_257 if measure == "dpo-50k" else 8192
        return preferences(model(device, words), rows(many, words, answers=2), live=True).update
    if measure == "dpo-cached":
        policy, pairs = model(device), rows(64, answers=2)

        def one_pass() -> None:
            learner = preferences(policy, pairs, live=False)  # fills the cache
            for _ in range(64 // BATCH):
                learner.update()

        return one_pass
    if measure == "ppo-iteration":
        policy = model(device)
        scorer = ScoreModel.of(policy, g)
        how = ppo_lm.Config(
            iterations=10**6, episodes=PPO_BATCH, batch_size=PPO_BATCH, epochs=4, learning_rate=1e-6, sampling=Sampling(PPO_ANSWER)
        )
        asked = [Asked(tuple(prompt)) for prompt, _ in rows(many)]
        return ppo_lm.PPOLM(how, policy, scorer.copy(), LearnedTextReward([scorer]), asked, 2, g).update
    prompts = torch.tensor([prompt for prompt, _ in rows(SAMPLES)], device=device)
    real = torch.ones(prompts.shape, dtype=torch.bool, device=device)
    if measure == "sampling":
        own = model(device).eval()
        return lambda: sample(own, prompts, real, LENGTH, 2, g, greedy=True)
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_config(config(device), dtype=torch.bfloat16 if device == "cuda" else torch.float32).to(device).eval()
    return lambda: theirs.generate(
        input_ids=prompts, attention_mask=real.long(), do_sample=False, max_new_tokens=LENGTH, eos_token_id=2, pad_token_id=0
    )


def preferences(policy: LanguageModel, made: list, live: bool) -> dpo.DPO:
    pairs = [(encoded(prompt, chosen), encoded(prompt, rejected)) for prompt, (chosen, rejected) in made]
    how = dpo.Config(epochs=10**6, batch_size=BATCH, learning_rate=1e-6, live_reference=live)
    return dpo.DPO(how, policy, pairs, Generator().manual_seed(2))


if __name__ == "__main__":
    asked, where, _ = told()
    heavy = asked in ("dpo-cached", "ppo-iteration", "sampling", "generate")
    serve(work(asked, where), warm_up=1 if heavy else 2)
