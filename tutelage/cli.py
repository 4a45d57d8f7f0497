"""The command line. Each verb imports its rooms when it is called, so that `tutelage --help` answers at once."""

import sys
from collections.abc import Callable, Sequence

VERBS: dict[str, str] = {
    "train": "teach an agent, or plan: train NAME --game ADDRESS --out DIR ...; `list` shows the names",
    "resume": "continue an interrupted run: resume DIR",
    "evaluate": "play noise-free episodes with a trained policy: evaluate DIR --episodes N [--json]",
    "generate": 'let a language model answer: generate RUN|FOLDER "PROMPT" ...',
    "compare": "put runs side by side: compare DIR DIR ... [--json], or print a table: compare FILE.jsonl",
    "watch": "film a trained policy: watch DIR [--out FILE.mp4]",
    "report": "write report.html of a run again, with other runs beside it: report DIR [--beside DIR ...]",
    "rate": "open the page on which people teach: rate RUN; for a lab: rate --store URL --accounts --host H",
    "labels": "move answers in and out of a store: labels import|export ...",
    "track": "copy a run's numbers to another tracker: track DIR --to tensorboard|trackio",
    "preflight": "look at text data before a model learns from it: preflight DATA --model M",
    "list": "what there is: games, algorithms, recipes",
    "show": "print an algorithm as one file that runs by itself: show NAME",
    "doctor": "check this machine, each finding with its fix",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code. What a person can have got wrong ends in one sentence and code 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(_help())
        return 0 if given else 2
    if given[0] == "--version":
        import tutelage

        print(f"tutelage {tutelage.__version__}")
        return 0
    verb, rest = given[0], given[1:]
    if verb not in VERBS:
        from difflib import get_close_matches

        print(f"unknown verb {verb!r}; did you mean {get_close_matches(verb, VERBS, n=1, cutoff=0.0)[0]}?", file=sys.stderr)
        return 2
    from tutelage import verbs

    run: Callable[[list[str]], int] = getattr(verbs, verb if verb != "list" else "list_")
    try:
        return run(rest)
    except verbs.MISTAKES as mistake:
        print(mistake, file=sys.stderr)
        return 2
    except SystemExit as end:  # the parser of options has said what it had to say
        return end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:
        print("interrupted; `tutelage resume DIR` continues from the newest checkpoint", file=sys.stderr)
        return 130


def _help() -> str:
    width = max(map(len, VERBS)) + 2
    lines = ["tutelage: reinforcement learning from rewards, from one another and from people", "", "usage: tutelage VERB ...", ""]
    lines += [f"  {verb:{width}}{meaning}" for verb, meaning in VERBS.items()]
    return "\n".join([*lines, "", "`tutelage VERB --help` shows every option of a verb."])


if __name__ == "__main__":
    sys.exit(main())
