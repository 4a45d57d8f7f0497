"""The glossary is law: one word for one thing, spelled as in American English."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Stems of British spellings, so that `normaliser` and `unlabelled` are found and `four` and `promise` are not.
BRITISH = re.compile(
    r"(normali|optimi|initiali|regulari|standardi|summari|discreti|generali|vectori|randomi|seriali|reali|maximi|minimi|factori|parametri"
    r"|centrali|organi|customi|synchroni|tokeni|quanti|visuali|categori|penali|utili|memoi|recogni)s(e|er|ed|es|ing|ation)(?![a-z])"
    r"|behaviour|colour|neighbour|favour|honour|centre|labell|modell|travell|cancell(ed|ing)|analys(e|ed|er|ing)(?![a-z])|catalogue|grey|artefact"
)


def words(identifier: str) -> tuple[str, ...]:
    """`actorLr_2` -> actor, lr, 2."""
    return tuple(re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", identifier).lower().strip("_").split("_"))


def glossary() -> dict[str, tuple[str, tuple[str, ...]]]:
    """term -> (meaning, forbidden synonyms), from the rows `| term | meaning | not |`."""
    table: dict[str, tuple[str, tuple[str, ...]]] = {}
    for line in (ROOT / "docs" / "glossary.md").read_text().splitlines():
        row = re.fullmatch(r"\| `(\w+)` \| (.+?) \| (.+?) \|", line)
        if row:
            assert row[1] not in table, f"docs/glossary.md defines {row[1]} twice"
            table[row[1]] = (row[2], tuple(re.findall(r"`(\w+)`", row[3])))
    return table


GLOSSARY = glossary()
FORBIDDEN = {words(synonym): term for term, (_, synonyms) in GLOSSARY.items() for synonym in synonyms}


def identifiers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """What a module names for others to read: functions, classes, parameters, fields, attributes that it sets."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) in {"self", "cls"}:
            yield node.lineno, node.attr
        if isinstance(node, ast.ClassDef):
            fields = (member.target for member in node.body if isinstance(member, ast.AnnAssign))
            yield from ((target.lineno, target.id) for target in fields if isinstance(target, ast.Name))


def offences(name: str, tree: ast.AST) -> list[str]:
    found: list[str] = []
    for line, identifier in identifiers(tree):
        parts = words(identifier)
        spans = {parts[i:j] for i in range(len(parts)) for j in range(i + 1, len(parts) + 1)}
        found += [f"{name}:{line}: {identifier}: the glossary says {FORBIDDEN[span]}" for span in sorted(spans & FORBIDDEN.keys())]
        if BRITISH.search("_".join(parts)):
            found.append(f"{name}:{line}: {identifier}: American spelling in code")
    return found


def test_the_package_speaks_the_glossary():
    files = sorted((ROOT / "tutelage").rglob("*.py"))
    assert files
    found = [offence for path in files for offence in offences(path.relative_to(ROOT).as_posix(), ast.parse(path.read_text()))]
    assert found == []


def test_every_row_of_the_glossary_is_read():
    rows = [line for line in (ROOT / "docs" / "glossary.md").read_text().splitlines() if line.startswith("| ")]
    headers = [line for line in rows if line == "| term | meaning | not |"]
    assert len(rows) == len(headers) + len(GLOSSARY)
    assert [term for term, (_, synonyms) in GLOSSARY.items() if not synonyms] == []


def test_no_synonym_is_itself_a_term():
    terms = {words(term) for term in GLOSSARY}
    assert {FORBIDDEN[synonym] for synonym in FORBIDDEN.keys() & terms} == set()


@pytest.mark.parametrize(
    "source",
    [
        "def f(lr): ...",
        "def f(*, actor_lr=1): ...",
        "class A:\n    n_steps: int",
        "class A:\n    def f(self):\n        self.obs = 1",
        "def normalise(x): ...",
        "class ColourMap: ...",
        "class RandomDone: ...",
    ],
)
def test_offences_are_found(source: str):
    assert offences("m.py", ast.parse(source))


@pytest.mark.parametrize("source", ["def f(learning_rate, four, promise, steps): ...", "optimizer.lr = 1", "class Observation: ..."])
def test_the_glossary_is_not_overzealous(source: str):
    assert not offences("m.py", ast.parse(source))
