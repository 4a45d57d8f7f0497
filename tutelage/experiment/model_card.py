"""The card of a trained model: what it learned from, who judged, at what price, and where it fails, from the run's own log.

`training.json` says it to a program and holds the cards of the models that this one was made from; `README.md` says it to a person.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tutelage
from tutelage.experience.text_rows import Pair, Ranked, TextRow
from tutelage.experiment.config import TextRunConfig, to_json
from tutelage.experiment.fingerprint import hardware
from tutelage.experiment.log import EVENTS, read_events
from tutelage.experiment.text_materials import WORLD, Materials, lineage

FACTS = "training.json"


def training_facts(config: TextRunConfig, out: Path, materials: Materials, seconds: float) -> dict[str, Any]:
    """All that is known of a run that has ended."""
    events = read_events(out / EVENTS)
    updates = [event for event in events if event["event"] == "update"]
    evaluations = [event for event in events if event["event"] == "evaluation"]
    last = lambda found: {k: v for k, v in found[-1].items() if k not in ("event", "time", "step", "seed", "seconds")} if found else {}
    measured = {"held out": last(evaluations), "last update": last(updates)}
    rows = [*materials.rows, *materials.held_out]
    return {
        "tutelage": tutelage.__version__,
        "stage": config.name,
        "config": to_json(config),
        "data": {
            "address": config.data,
            "sha256": materials.digest,
            "rows": len(materials.rows),
            "held_out": len(materials.held_out),
            "kind": type(rows[0]).__name__,
        },
        "raters": config.raters or _raters(config, rows),
        "agreement": agreement(rows),
        "budget": {"updates": updates[-1]["step"] if updates else 0, "seconds": round(seconds, 1), "hardware": hardware(config.device)},
        "rewards": [{"address": address, "training": _summary(lineage(address))} for address in config.reward],
        "measured": measured,
        "known_failures": failures(config, updates, evaluations),
        "base": {"address": config.model, "training": lineage(config.model) if "?" not in config.model else {}},
    }


def _raters(config: TextRunConfig, rows: Sequence[TextRow]) -> str:
    if config.data.startswith(WORLD):
        return "the world itself"
    who = {str(row.columns["rater"]) for row in rows if "rater" in row.columns}
    return f"{len(who)} who answered in the rating room" if who else "not said"


def agreement(rows: Sequence[TextRow]) -> dict[str, Any] | None:
    """How often two judgements of the same two answers agree; None where no two answers were judged twice."""
    judged: dict[tuple[Any, ...], list[bool]] = {}
    for row in rows:
        if isinstance(row, Pair):
            decided = [(row.chosen, row.rejected)]
        elif isinstance(row, Ranked):
            decided = [(row.texts[i], row.texts[j]) for i, j in row.preferences()]
        else:
            continue
        for better, worse in decided:
            first, second = sorted((better, worse))
            judged.setdefault((row.prompt, first, second), []).append(better == first)
    both = [(own[i], own[j]) for own in judged.values() for i in range(len(own)) for j in range(i)]
    return {"share": sum(a == b for a, b in both) / len(both), "judged_twice": len(both)} if both else None


def failures(config: TextRunConfig, updates: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the numbers of the run say against the model, in sentences."""
    found: list[str] = []
    if not updates:
        return ["It was not trained."]
    first, last = updates[0], updates[-1]

    def moved(name: str) -> tuple[float, float] | None:
        pair = first.get(name), last.get(name)
        return (float(pair[0]), float(pair[1])) if None not in pair else None  # type: ignore[arg-type]

    if (finished := last.get("finished")) is not None and finished < 0.995:
        found.append(f"{1 - finished:.1%} of its last training answers did not end within the limit of tokens.")
    if last.get("empty"):
        found.append(f"{last['empty']:.1%} of its last training answers were empty.")
    if (kl := last.get("kl")) is not None and kl > 10:
        found.append(f"It is {kl:.0f} nats from its reference; what the reward model says of such texts is not to be trusted.")
    if (length := moved("length")) is not None and abs(length[1] / max(length[0], 1.0) - 1) > 0.25:
        found.append(f"Its answers went from {length[0]:.0f} to {length[1]:.0f} tokens while the score went {_to(moved('score'))}.")
    if (chosen := moved("logp/chosen")) is not None and chosen[1] < chosen[0]:
        found.append(f"The log-probability of chosen answers fell from {chosen[0]:.1f} to {chosen[1]:.1f}.")
    if config.name == "reward-model" and evaluations and evaluations[-1].get("accuracy") is not None:
        found.append(f"It disagrees with {1 - evaluations[-1]['accuracy']:.0%} of the pairs that were held out.")
    if not evaluations and "finished" not in last:
        found.append("Nothing was held out, so that nothing is known of rows that it did not learn from.")
    return found or ["None was seen; only what the run measured was looked at."]


def write_card(folder: Path, facts: Mapping[str, Any]) -> None:
    """`training.json` and `README.md` into the folder of a net."""
    (folder / FACTS).write_text(json.dumps(facts, indent=1))
    (folder / "README.md").write_text(card(facts))


def card(facts: Mapping[str, Any]) -> str:
    """The card as Markdown, with the header that the hub reads."""
    data, budget, agreed = facts["data"], facts["budget"], facts["agreement"]
    base = facts["base"]["address"]
    agreed = (
        "not known: no two answers were judged twice"
        if agreed is None
        else f"{agreed['share']:.0%} of {agreed['judged_twice']} repeated judgements"
    )
    lines = [
        "---",
        "library_name: transformers",
        f"tags: [tutelage, {facts['stage']}]",
        *([f"base_model: {json.dumps(str(base))}"] if "?" not in base else []),
        "---",
        "",
        f"# {facts['stage']}: {facts.get('net', 'model')}",
        "",
        f"Trained with tutelage {facts['tutelage']} from `{base}`.",
        "",
        "| | |",
        "|---|---|",
        f"| data | `{data['address']}`, {data['rows']:,} rows ({data['kind']}) and {data['held_out']:,} held out |",
        f"| SHA-256 of the rows | `{data['sha256'][:16]}` |",
        f"| raters | {facts['raters']} |",
        f"| agreement | {agreed} |",
        f"| budget | {budget['updates']:,} updates, {budget['seconds']:,.0f} s on {budget['hardware']} |",
        f"| reward | {', '.join(_reward(reward) for reward in facts['rewards']) or 'none'} |",
        "",
        "## Measured",
        "",
        *_numbers(facts["measured"]),
        "## Known failures",
        "",
        *[f"- {sentence}" for sentence in facts["known_failures"]],
        "",
        "## Made from",
        "",
        *[f"{'  ' * depth}- {line}" for depth, line in enumerate(_ancestors(facts))],
        "",
        "## Settings",
        "",
        "```json",
        json.dumps(facts["config"], indent=1),
        "```",
        "",
    ]
    return "\n".join(lines)


def _numbers(measured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines: list[str] = []
    for where, numbers in measured.items():
        if numbers:
            lines += [
                f"{where.capitalize()}: " + ", ".join(f"{name} {value:.4g}" for name, value in numbers.items() if value is not None),
                "",
            ]
    return lines


def _ancestors(facts: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    while facts:
        found.append(
            f"{facts['stage']} on `{facts['data']['address']}`, {facts['budget']['updates']:,} updates, from `{facts['base']['address']}`"
        )
        facts = facts["base"].get("training") or {}
    return found


def _reward(reward: Mapping[str, Any]) -> str:
    told = reward["training"]
    return f"`{reward['address']}`" + (f" (held-out accuracy {told['accuracy']:.2f})" if told.get("accuracy") is not None else "")


def _summary(facts: Mapping[str, Any]) -> dict[str, Any]:
    if not facts:
        return {}
    accuracy = facts["measured"]["held out"].get("accuracy")
    return {
        "stage": facts["stage"],
        "data": facts["data"],
        "raters": facts["raters"],
        "agreement": facts["agreement"],
        "accuracy": accuracy,
    }


def _to(pair: tuple[float, float] | None) -> str:
    return "unrecorded" if pair is None else f"from {pair[0]:.2f} to {pair[1]:.2f}"
