"""What a page takes from the package and from the results, so that nothing is written twice: directives for Sphinx.

In a page, `{facts} deep/ppo.py` is the file's header, `{settings}` the table of its Config, `{functions}` its losses and
what else it is defined by, `{equations}`
what it uses from `equations/`, `{source}` all of it; `{measured} ppo` the rows of its results; `{results} many_agents`
a whole table; `{landscape}` every file's place.
"""

import ast
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from tutelage.recipes.rows import RESULTS, Row, read
from tutelage.recipes.tables import TABLES, plain_table, score_table

PACKAGE = Path(__file__).parents[1] / "tutelage"
LEARN = PACKAGE / "learn"
LANDSCAPE = re.compile(
    r"^Landscape: (?P<model>model-free|model-based), (?:(?P<policy>on-policy|off-policy), (?P<data>online|offline|hybrid)|planning); "
    r"(?P<actions>continuous|discrete|continuous and discrete) actions; scale: (?P<scale>tabular|deep)$",
    re.MULTILINE,
)
"""The line of a header that says where an algorithm stands. A planner knows the model: it neither plays nor has data."""


class Place(NamedTuple):
    """Where an algorithm stands."""

    scale: str
    model: str
    policy: str
    data: str
    actions: str


def header(path: Path) -> str:
    """The docstring of a module."""
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def place(path: Path) -> Place | None:
    """What a header says about the landscape. None where it says nothing; ValueError where nobody can read it."""
    text = header(path)
    found = LANDSCAPE.search(text)
    if found is None:
        if "Landscape" in text:
            raise ValueError(f"{path.name}: the line that begins with Landscape: is none of {LANDSCAPE.pattern}")
        return None
    return Place(found["scale"], found["model"], found["policy"] or "planning", found["data"] or "planning", found["actions"])


def algorithms() -> list[Path]:
    """The files of learn/ that are an algorithm: they have a Config."""
    return [path for path in sorted(LEARN.rglob("*.py")) if any(_classes(path, "Config"))]


def settings(path: Path) -> list[tuple[str, str, str]]:
    """Name, default and meaning of every field of Config."""
    rows: list[tuple[str, str, str]] = []
    for config in _classes(path, "Config"):
        for field, after in zip(config.body, [*config.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                told = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
                rows.append((field.target.id, ast.unparse(field.value) if field.value else "", " ".join(str(told).split())))
    return rows


def functions(path: Path) -> list[str]:
    """The source of the public functions of a module: losses, errors, and what else defines the algorithm."""
    text = path.read_text()
    found = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    return [ast.get_source_segment(text, node) or "" for node in found if not node.name.startswith("_")]


def equations(path: Path) -> list[tuple[str, str]]:
    """File and source of every function that a module takes from equations/, itself or by way of a part that is no algorithm."""
    found: dict[tuple[str, str], None] = {}
    parts, seen = [path], {path}
    while parts:
        for node in ast.walk(ast.parse(parts.pop(0).read_text())):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("tutelage."):
                continue
            source = PACKAGE.joinpath(*(node.module or "").split(".")[1:]).with_suffix(".py")
            if source.parent.name == "equations":
                text = source.read_text()
                defined = {part.name: part for part in ast.parse(text).body if isinstance(part, ast.FunctionDef)}
                names = [alias.name for alias in node.names if alias.name in defined]
                found |= {(f"equations/{source.name}", ast.get_source_segment(text, defined[name]) or ""): None for name in names}
            elif {"learn", "rewards"} & set(source.parts) and source.is_file() and source not in seen and source not in algorithms():
                seen.add(source)
                parts.append(source)
    return list(found)


def rows_of(name: str, results: Path = RESULTS) -> list[Row]:
    """Every score of an algorithm and of its peers: method `ppo`, `ppo-...`, whatever the library."""
    # Results of language models have other columns, and tables of their own.
    files = [path for path in sorted(results.glob("*.jsonl")) if all(name in path.read_text() for name in ('"method"', '"steps"'))]
    return [row for path in files for row in read(path) if re.fullmatch(rf"{name}(-.*)?", row.method.partition("/")[0])]


def speeds_of(name: str, results: Path = RESULTS) -> list[dict[str, Any]]:
    """Every measured speed of an algorithm and of its peers."""
    path = results / "speed.jsonl"
    rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines() if line.strip()] if path.exists() else []
    return [row for row in rows if re.fullmatch(rf"{name}(-.*)?", str(row.get("measure")))]


def _classes(path: Path, name: str) -> Iterator[ast.ClassDef]:
    return (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef) and node.name == name)


def _inline(text: str) -> list[nodes.Node]:
    """Text as it stands, but for `code`: formulas of a docstring are no markup."""
    pieces = re.split(r"(`[^`]+`)", " ".join(text.split()))
    return [nodes.literal(text=piece[1:-1]) if piece.startswith("`") else nodes.Text(piece) for piece in pieces if piece]


def _table(titles: Sequence[str], rows: Sequence[Sequence[Sequence[nodes.Node]]]) -> nodes.table:
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in titles), cols=len(titles))

    def line(cells: Sequence[Sequence[nodes.Node]]) -> nodes.row:
        return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", *cell)) for cell in cells))

    group += nodes.thead("", line([[nodes.Text(title)] for title in titles]))
    group += nodes.tbody("", *(line(row) for row in rows))
    return nodes.table("", group)


def _code(text: str) -> nodes.literal_block:
    block = nodes.literal_block(text, text)
    block["language"] = "python"
    return block


class _OfFile(SphinxDirective):
    """A directive about one file of learn/."""

    required_arguments = 1

    def path(self) -> Path:
        path = LEARN / self.arguments[0]
        if not path.is_file():
            raise self.error(f"there is no file learn/{self.arguments[0]}")
        self.env.note_dependency(str(path))
        return path


class Facts(_OfFile):
    def run(self) -> list[nodes.Node]:
        found: list[nodes.Node] = []
        for block in header(self.path()).split("\n\n"):
            opening, *points = re.split(r"^- ", block, flags=re.MULTILINE)
            closing = ""
            if points and "\n" in points[-1]:  # what follows the list begins at the margin
                last = re.split(r"\n(?! )", points[-1], maxsplit=1)
                points[-1], closing = last[0], last[1] if len(last) > 1 else ""
            if opening.strip():
                found.append(nodes.paragraph("", "", *_inline(opening)))
            if points:
                items = [nodes.list_item("", nodes.paragraph("", "", *_inline(point))) for point in points]
                found.append(nodes.bullet_list("", *items))
            found += [nodes.paragraph("", "", *_inline(part)) for part in re.split(r"\n(?=Landscape:)", closing) if part]
        return found


class Settings(_OfFile):
    def run(self) -> list[nodes.Node]:
        rows = [([nodes.literal(text=name)], [nodes.literal(text=default)], _inline(told)) for name, default, told in settings(self.path())]
        return [_table(("field", "default", "meaning"), rows)]


class Functions(_OfFile):
    def run(self) -> list[nodes.Node]:
        return [_code(text) for text in functions(self.path())] or [nodes.paragraph("", "None: all of it is in its class.")]


class Equations(_OfFile):
    def run(self) -> list[nodes.Node]:
        found: list[nodes.Node] = []
        for name, text in equations(self.path()):
            self.env.note_dependency(str(PACKAGE / name))
            found += [nodes.paragraph("", "", nodes.literal(text=name)), _code(text)]
        return found or [nodes.paragraph("", "None of its own: it learns with another algorithm's.")]


class Source(_OfFile):
    def run(self) -> list[nodes.Node]:
        block = _code(self.path().read_text())
        block["linenos"] = True
        return [block]


class Measured(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        for path in RESULTS.glob("*.jsonl"):
            self.env.note_dependency(str(path))
        scores, speeds = rows_of(self.arguments[0]), speeds_of(self.arguments[0])
        tables = ([score_table(scores)] if scores else []) + ([plain_table(speeds)] if speeds else [])
        if not tables:
            return [nodes.paragraph("", "No results of this algorithm have been measured yet.")]
        return [node for table in tables for node in self.parse_text_to_nodes(table)]


class Results(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = RESULTS / f"{self.arguments[0]}.jsonl"
        self.env.note_dependency(str(path))
        return self.parse_text_to_nodes(TABLES[self.arguments[0]](path))


class Landscape(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        rows: list[tuple[Place, Path]] = []
        for path in algorithms():
            self.env.note_dependency(str(path))
            if (found := place(path)) is not None:
                rows.append((found, path))
        order = sorted(rows, key=lambda row: (row[0].scale != "tabular", row[0].model != "model-based", row[0].policy, row[1].stem))
        lines = ["| algorithm | scale | model | policy | data | actions |", "|---|---|---|---|---|---|"]
        for found, path in order:
            title = header(path).partition(":")[0].partition("\n")[0]
            lines.append(f"| [{title}](algorithms/{path.stem}.md) | " + " | ".join(found) + " |")
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    for directive in (Facts, Settings, Functions, Equations, Source, Measured, Results, Landscape):
        app.add_directive(directive.__name__.lower(), directive)
    return {"version": "1", "parallel_read_safe": True}
