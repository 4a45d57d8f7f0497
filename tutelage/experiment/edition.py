"""Single-file editions: an algorithm's own file, and below it every definition of the package that it uses.

The definitions are found in the source, from the algorithm and from `experiment.alone.main` outwards; text, comments and
docstrings stay as they were written. Names that clash are changed, and so is every mention of them. Of a class from another
file an edition keeps the methods whose name is mentioned somewhere in it.
"""

import ast
import builtins
import functools
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import tutelage
from tutelage.experiment.config import ALGORITHMS, PLANNERS, STAGES, ConfigError, nearest

PACKAGE = tutelage.__name__
RUN = "tutelage.experiment.alone"
WIDTH = 140
ROOMS = ("learn", "rewards", "feedback", "experience", "games", "nets", "equations", "experiment")
"""In which order their parts follow the algorithm."""
LESSON = "oracle_lesson"
"""What `alone.main` needs beside the learner, for those who learn from a teacher."""
LEFT_OUT = {("tutelage.games.gymnasium", "GymnasiumGame"): {"snapshot", "restore", "render", "_painter"}}
"""Methods that override a refusal of their base class: an edition draws nothing and puts no world back, so that it needs no simulator."""
SHAPES = '''class Shape:
    """What the annotations name: Float[Tensor, "B D"] is a Tensor of B x D floats. The package checks them with jaxtyping."""

    def __class_getitem__(cls, named):
        return named[0]


{names} = Shape'''

Symbol = tuple[str, str]
"""A module of the package and a name in it; or an outside module and what is taken from it ("" for the module itself)."""


@dataclass(frozen=True)
class Reference:
    """A place in the source where a global name is mentioned."""

    line: int
    start: int
    """In bytes, as the parser counts."""
    end_line: int
    end: int
    symbol: Symbol | None
    """None: a name of Python's own."""
    text: str
    hidden: frozenset[str]
    """Names that mean something local here."""
    eager: bool
    """Looked up when the module is imported, and not only when a function runs."""


@dataclass(eq=False)
class Statement:
    """A statement at the top level of a module, with what belongs to it."""

    module: "Module"
    node: ast.stmt
    names: list[str]
    first: int
    """Its first line, comments above it included."""
    last: int
    references: list[Reference] = field(default_factory=list[Reference])
    attributes: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    """Lines, and what is looked up there on any object."""
    imports: list[ast.stmt] = field(default_factory=list[ast.stmt])
    """Imports of the package inside functions: their names are global in an edition."""

    @cached_property
    def methods(self) -> list[tuple[str, int, int]]:
        """Name, first and last line of each method that may be left out."""
        if not isinstance(self.node, ast.ClassDef):
            return []
        bases = {base.id for base in self.node.bases if isinstance(base, ast.Name)}
        known = all(base in ("ABC", "NamedTuple") or self.module.is_own(base) for base in bases)
        if not known or len(bases) < len(self.node.bases):
            return []  # what an outside class calls by name is unknown
        found: list[tuple[str, int, int]] = []
        for member in self.node.body:
            if isinstance(member, ast.FunctionDef) and not (member.name.startswith("__") and member.name.endswith("__")):
                found.append((member.name, *self.module.span(member)))
        return found

    def holds(self, line: int, kept: set[str] | None) -> bool:
        """Whether an edition that keeps these methods (None: all) has this line."""
        left_out = LEFT_OUT.get((self.module.name, self.names[0]), set[str]())
        return not any(
            first <= line <= last and (name in left_out or (kept is not None and name not in kept)) for name, first, last in self.methods
        )


@functools.cache
def read_module(name: str) -> "Module":
    """The module of this name, read once."""
    return Module(name)


class Module:
    """A module of the package, read but not imported."""

    def __init__(self, name: str) -> None:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ConfigError(f"the source of {name} was not found; an edition is made from the package's source")
        self.name, self.text = name, Path(spec.origin).read_text()
        self.lines = self.text.splitlines()
        self.tree = ast.parse(self.text)
        self.imported: dict[str, Symbol] = {}
        self.unchecked: set[str] = set()
        """Names for type checkers only."""
        self.statements: list[Statement] = []
        for node in self.tree.body:
            self._read(node)
        self.defined = {name: statement for statement in self.statements for name in statement.names}
        for statement in self.statements:
            _Scopes(statement).visit(statement.node)

    def is_own(self, name: str) -> bool:
        """Whether a global name is defined in the package."""
        return name in self.defined or self.imported.get(name, ("",))[0].split(".")[0] == PACKAGE

    def span(self, node: ast.stmt) -> tuple[int, int]:
        """First and last line, with decorators and the comments above."""
        first = min([node.lineno, *(mark.lineno for mark in getattr(node, "decorator_list", []))])
        while first > 1 and self.lines[first - 2].lstrip().startswith("#"):
            first -= 1
        return first, node.end_lineno or node.lineno

    def _read(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            self.imported |= dict(imported_names(node))
        elif isinstance(node, ast.Try) and all(isinstance(line, ast.Import | ast.ImportFrom) for line in node.body):
            for line in node.body:
                self._read(line)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for line in node.body:
                self.unchecked |= {name for name, _ in imported_names(line)}
        elif isinstance(node, ast.If) and ast.unparse(node.test).startswith("__name__"):
            pass
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            if self.statements and node is not self.tree.body[0]:  # the docstring of a constant
                self.statements[-1].last = node.end_lineno or node.lineno
        else:
            names = list(bound_names([node]))
            if not names:
                raise ConfigError(f"{self.name}, line {node.lineno}: a statement without a name cannot go into an edition")
            self.statements.append(Statement(self, node, names, *self.span(node)))


def imported_names(node: ast.stmt) -> Iterator[tuple[str, Symbol]]:
    """What an import binds, and what it stands for; a module has the name ""."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield (alias.asname, (alias.name, "")) if alias.asname else (alias.name.split(".")[0], (alias.name.split(".")[0], ""))
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            yield alias.asname or alias.name, (node.module or "", alias.name)


def bound_names(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Names that these statements bind in their own scope."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
            continue
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (name for name, symbol in imported_names(node) if symbol[0].split(".")[0] != PACKAGE)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield node.name
        elif isinstance(node, ast.MatchMapping) and node.rest:
            yield node.rest
        if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):  # only := leaves a comprehension
            yield from (walrus.target.id for walrus in ast.walk(node) if isinstance(walrus, ast.NamedExpr))
        else:
            yield from bound_names(ast.iter_child_nodes(node))


class _Scopes(ast.NodeVisitor):
    """Finds the global names that a statement mentions, by Python's rules of scope."""

    def __init__(self, statement: Statement) -> None:
        self.statement, self.module = statement, statement.module
        self.scopes: list[tuple[bool, dict[str, Symbol | None]]] = []
        """Innermost last: whether it is a class, and its names; a name that a function imports stands for its symbol."""
        self.eager = True

    def visit_Name(self, node: ast.Name) -> None:
        self._mention(node, node.id, self._meaning(node.id))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.statement.attributes.append((node.end_lineno or node.lineno, node.attr))
        if isinstance(node.value, ast.Name):
            found = self._meaning(node.value.id)
            if isinstance(found, tuple) and (module := _module_of(found)):
                self._mention(node, node.attr, (module, node.attr))
                return
        self.visit(node.value)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and node.value.isidentifier():  # getattr(x, "name")
            self.statement.attributes.append((node.lineno, node.value))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node, node.args, node.body, [*node.decorator_list], [node.returns])

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._function(node, node.args, [node.body], [], [])

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for part in [*node.decorator_list, *node.bases, *node.keywords]:
            self.visit(part)
        self._inside(True, dict.fromkeys(bound_names(node.body)), node.body)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(node.target)
        self._lazily([node.annotation])
        if node.value:
            self.visit(node.value)

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
        self.visit(node.generators[0].iter)
        names = dict.fromkeys(bound_names(part.target for part in node.generators))
        rest: list[ast.AST] = [condition for part in node.generators for condition in [part.target, *part.ifs]]
        rest += [part.iter for part in node.generators[1:]]
        rest += [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        self._inside(False, names, rest)

    visit_SetComp = visit_GeneratorExp = visit_DictComp = visit_ListComp

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if (node.module or "").split(".")[0] == PACKAGE:
            self.statement.imports.append(node)

    def _function(
        self, node: ast.AST, args: ast.arguments, body: Sequence[ast.AST], now: Sequence[ast.AST], returns: Sequence[ast.AST | None]
    ) -> None:
        every = [*args.posonlyargs, *args.args, *args.kwonlyargs, *(x for x in (args.vararg, args.kwarg) if x)]
        for part in [*now, *args.defaults, *(default for default in args.kw_defaults if default)]:
            self.visit(part)
        self._lazily([arg.annotation for arg in every if arg.annotation] + [part for part in returns if part])
        outside = {name for line in ast.walk(node) if isinstance(line, ast.Global | ast.Nonlocal) for name in line.names}
        names: dict[str, Symbol | None] = dict.fromkeys([arg.arg for arg in every])
        names |= {name: None for name in bound_names(body) if name not in outside}
        for line in (line for part in body for line in ast.walk(part)):
            if isinstance(line, ast.ImportFrom):
                names |= {name: symbol for name, symbol in imported_names(line) if symbol[0].split(".")[0] == PACKAGE}
        eager, self.eager = self.eager, False
        self._inside(False, names, body)
        self.eager = eager

    def _inside(self, is_class: bool, names: dict[str, Symbol | None], nodes: Iterable[ast.AST]) -> None:
        self.scopes.append((is_class, names))
        for node in nodes:
            self.visit(node)
        self.scopes.pop()

    def _lazily(self, nodes: Iterable[ast.AST]) -> None:
        eager, self.eager = self.eager, False
        for node in nodes:
            self.visit(node)
        self.eager = eager

    def _visible(self) -> Iterator[dict[str, Symbol | None]]:
        for depth, (is_class, names) in enumerate(reversed(self.scopes)):
            if not is_class or depth == 0:
                yield names

    def _meaning(self, name: str) -> Symbol | str | None:
        """The symbol of a global name, None for Python's own, "" for a local one."""
        for names in self._visible():
            if name in names:
                return names[name] or ""
        if name in self.module.defined:
            return (self.module.name, name)
        if name in self.module.imported:
            return self.module.imported[name]
        if name in self.module.unchecked:
            return ""
        if name in ("__name__", "__file__", "__doc__") or hasattr(builtins, name):
            return None
        raise ConfigError(f"{self.module.name}: the name {name} of {self.statement.names[0]} was not found")

    def _mention(self, node: ast.expr, text: str, symbol: Symbol | str | None) -> None:
        if isinstance(symbol, str):
            return
        # A name that a function imports from the package is global in an edition, so that it hides nothing.
        hidden = frozenset(name for names in self._visible() for name, meaning in names.items() if meaning is None)
        end_line, end = node.end_lineno or node.lineno, node.end_col_offset or 0
        self.statement.references.append(Reference(node.lineno, node.col_offset, end_line, end, symbol, text, hidden, self.eager))


def _module_of(symbol: Symbol) -> str | None:
    """The module of the package that a symbol is, if it is one."""
    if symbol[0].split(".")[0] != PACKAGE:
        return None
    name = ".".join(part for part in symbol if part)
    return name if importlib.util.find_spec(symbol[0]) is not None and _is_module(name) else None


def _is_module(name: str) -> bool:
    path = Path(tutelage.__file__).parent.joinpath(*name.split(".")[1:])
    return path.is_dir() or path.with_suffix(".py").is_file()


class Edition:
    """The definitions that an algorithm needs, with their names in one file."""

    def __init__(self, name: str) -> None:
        """Raises ConfigError for an unknown algorithm, naming the nearest known one."""
        known = PLANNERS | ALGORITHMS
        if name in STAGES:
            raise ConfigError(
                f"{name} trains a language model of transformers; single files are of what plays or plans: {', '.join(known)}"
            )
        if name not in known:
            raise ConfigError(f"unknown algorithm {name!r}; did you mean {nearest(name, known)}? Known are {', '.join(known)}")
        entry, self.name = known[name], name
        self.main = "plan" if name in PLANNERS else "main_of_many" if entry.many else "main"
        self.config: Symbol = (entry.config.__module__, entry.config.__qualname__)
        self.learner: Symbol = (entry.learner.__module__, entry.learner.__qualname__)
        self.own = read_module(self.learner[0])
        self.lesson = [LESSON] if name in ALGORITHMS and ALGORITHMS[name].taught else []
        self.roots = [read_module(RUN).defined[root] for root in (self.main, *self.lesson)]
        if self.config[0] != self.learner[0]:  # a variant: settings of its own for the learner of another file
            self.roots.append(read_module(self.config[0]).defined[self.config[1]])
        self.kept: dict[Statement, set[str] | None] = {}
        """What the edition holds, and of classes from other files the methods that are mentioned; None: everything."""
        self._grow()
        self.ordered = self._order()
        self.names = self._choose_names()

    def _resolve(self, symbol: Symbol) -> Symbol:
        """Where a symbol is really defined: a module may import what others import from it."""
        while symbol[0].split(".")[0] == PACKAGE:
            module = read_module(symbol[0])
            if symbol[1] in module.defined:
                break
            if symbol[1] not in module.imported:
                raise ConfigError(f"{symbol[1]} was not found in {symbol[0]}")
            symbol = module.imported[symbol[1]]
        return symbol

    def _statement(self, symbol: Symbol) -> Statement | None:
        return read_module(symbol[0]).defined[symbol[1]] if symbol[0].split(".")[0] == PACKAGE else None

    def _held(self, statement: Statement) -> list[tuple[Reference, Symbol | None]]:
        """What the part of a statement that the edition keeps mentions."""
        kept = self.kept[statement]
        held = [reference for reference in statement.references if statement.holds(reference.line, kept)]
        return [(reference, self._resolve(reference.symbol) if reference.symbol else None) for reference in held]

    def _grow(self) -> None:
        """Everything that is mentioned by what is kept, to the end."""
        self.kept = dict.fromkeys([*self.own.statements, *self.roots])
        size = -1
        while size != (size := len(self.kept) + sum(len(kept or ()) for kept in self.kept.values())):
            mentioned: set[str] = set()
            for statement, kept in list(self.kept.items()):
                for _, symbol in self._held(statement):
                    target = self._statement(symbol) if symbol else None
                    if target is not None and target not in self.kept:
                        self.kept[target] = None if target.module.name == RUN else set()
                mentioned |= {name for line, name in statement.attributes if statement.holds(line, kept)}
            for statement, kept in self.kept.items():
                if kept is not None:
                    kept |= {name for name, _, _ in statement.methods} & mentioned

    def _order(self) -> list[Statement]:
        """The algorithm first, then the run, then the parts by room; before each what must be defined earlier."""

        def place(statement: Statement) -> tuple[int, str, int]:
            module = statement.module.name
            if statement.module is self.own:
                return 0, module, statement.first
            return 1 if module == RUN else 2 + ROOMS.index(module.split(".")[1]), module, statement.first

        ordered: dict[Statement, None] = {}

        def emit(statement: Statement, waiting: tuple[Statement, ...] = ()) -> None:
            if statement in ordered or statement in waiting:
                return
            for reference, symbol in self._held(statement):
                target = self._statement(symbol) if symbol and reference.eager else None
                if target is not None:
                    emit(target, (*waiting, statement))
            ordered[statement] = None

        for statement in sorted(self.kept, key=place):
            emit(statement)
        return list(ordered)

    def _choose_names(self) -> dict[Symbol, str]:
        """One name per symbol: no two alike, none that is local or Python's own where it is mentioned."""
        hidden: dict[Symbol, set[str]] = {}
        aliases: dict[Symbol, list[str]] = {}
        pythons: set[str] = set()
        for statement in self.ordered:
            for name in statement.names:
                hidden.setdefault((statement.module.name, name), set())
            for reference, symbol in self._held(statement):
                if symbol is None:
                    pythons.add(reference.text)
                else:
                    hidden.setdefault(symbol, set()).update(reference.hidden)
                    aliases.setdefault(symbol, []).append(reference.text)
        names: dict[Symbol, str] = {}
        taken = pythons | {"Shape"}
        first = [self.config, self.learner, *((self.own.name, name) for name in self.own.defined), (RUN, self.main)]
        for symbol in [*dict.fromkeys(first), *hidden]:
            if symbol in names:
                continue
            module, name = symbol
            tail = module.rpartition(".")[2]
            known = aliases.get(symbol, [])
            wishes = [name, *known] if name else [*known, module]
            wishes.append(f"_{tail}{name}" if name.startswith("_") else f"{tail}_{name}")
            wishes += [f"{wishes[-1]}_{number}" for number in range(2, 100)]
            names[symbol] = next(wish for wish in wishes if wish not in taken | hidden.get(symbol, set()) and "." not in wish)
            taken.add(names[symbol])
        return names

    @cached_property
    def outside(self) -> list[Symbol]:
        """What the edition imports."""
        return [symbol for symbol in self.names if symbol[0].split(".")[0] != PACKAGE]

    def needs(self) -> list[str]:
        """Packages beyond Python's own."""
        packages = {symbol[0].split(".")[0] for symbol in self.outside}
        return sorted(packages - set(sys.stdlib_module_names) - {"jaxtyping"})

    def text(self) -> str:
        """The file."""
        continuous = ("tutelage.games.nested", "action_bounds") in self.names
        game = "grid:lecture" if self.main == "plan" else "gym:Pendulum-v1" if continuous else "gym:CartPole-v1"
        doc = ast.get_docstring(self.own.tree, clean=False) or ""
        if self.config[0] != self.learner[0]:
            doc = f"{doc.rstrip()}\n\n{(PLANNERS | ALGORITHMS)[self.name].config.__doc__}"
        about = f"{self.name} of tutelage {tutelage.__version__} in one file, printed by `tutelage show {self.name}`."
        usage = f"python edition.py --game {game} --set discount=0.98" + ("" if self.main == "plan" else " --steps 10000 --seed 0")
        head = f'"""{doc.rstrip()}\n\n{about}\nNeeds {", ".join(self.needs())}. For example: {usage}\n"""'
        parts = [head, self._imports()]
        shapes = [self.names[symbol] for symbol in self.outside if symbol[0] == "jaxtyping"]
        if shapes:
            parts.append(SHAPES.format(names=" = ".join(sorted(shapes))))
        before = ""
        for statement in self.ordered:
            if statement.module.name != before:
                before = statement.module.name
                path = before.removeprefix(f"{PACKAGE}.").replace(".", "/")
                title = (ast.get_docstring(statement.module.tree) or "").partition("\n")[0]
                parts.append(f"# --- {path}.py --- {title}"[:WIDTH])
            parts.append(self._rewritten(statement))
        given = [f"{self.names[self.config]}()", self.names[self.learner], *(self.names[RUN, name] for name in self.lesson)]
        call = f"{self.names[RUN, self.main]}({', '.join(given)})"
        parts.append(f'if __name__ == "__main__":\n    {call}')
        return "\n\n\n".join(parts) + "\n"

    def _imports(self) -> str:
        lines: dict[int, list[str]] = {0: ["from __future__ import annotations"], 1: [], 2: []}
        froms: dict[str, list[str]] = {}
        for symbol in self.outside:
            module, name = symbol
            if module in ("jaxtyping", "__future__"):
                continue
            if name:
                froms.setdefault(module, []).append(name if self.names[symbol] == name else f"{name} as {self.names[symbol]}")
            else:
                lines[_group(module)].append(f"import {module}" + ("" if self.names[symbol] == module else f" as {self.names[symbol]}"))
        for module, taken in froms.items():
            line = f"from {module} import {', '.join(sorted(taken))}"
            if len(line) > WIDTH:
                line = f"from {module} import (\n" + "".join(f"    {name},\n" for name in sorted(taken)) + ")"
            lines[_group(module)].append(line)
        return "\n\n".join("\n".join(sorted(group, key=lambda line: (line.startswith("from"), line))) for group in lines.values() if group)

    def _rewritten(self, statement: Statement) -> str:
        """The text of a statement, with names changed and what the edition does without cut out."""
        module, methods = statement.module, self.kept[statement]
        lines = {number: module.lines[number - 1].encode() for number in range(statement.first, statement.last + 1)}
        edits: list[tuple[int, int, int, str]] = []
        for reference, symbol in self._held(statement):
            if symbol is None:
                continue
            if reference.line != reference.end_line:
                raise ConfigError(f"{module.name}, line {reference.line}: a name over two lines cannot be changed")
            edits.append((reference.line, reference.start, reference.end, self.names[symbol]))
        node = statement.node
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            start = lines[node.lineno].index(node.name.encode(), node.col_offset + len("def "))
            edits.append((node.lineno, start, start + len(node.name.encode()), self.names[module.name, node.name]))
        for line, start, end, name in sorted(set(edits), reverse=True):
            lines[line] = lines[line][:start] + name.encode() + lines[line][end:]
        cut = {number for line in statement.imports for number in range(line.lineno, (line.end_lineno or line.lineno) + 1)}
        kept = [text.decode() for number, text in lines.items() if statement.holds(number, methods) and number not in cut]
        return _without_gaps(kept)


def _group(module: str) -> int:
    return 1 if module.split(".")[0] in sys.stdlib_module_names else 2


def _without_gaps(lines: list[str]) -> str:
    """At most one empty line in a row, as inside a class."""
    kept = [line for i, line in enumerate(lines) if line.strip() or (i and lines[i - 1].strip())]
    return "\n".join(kept).rstrip()


def show(name: str) -> str:
    """The single-file edition of an algorithm. Raises ConfigError for an unknown one."""
    return Edition(name).text()
