"""The laws of the house that a program can check; docs/glossary.md has its own test."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tutelage"
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(), str(path)) for path in sorted(PACKAGE.rglob("*.py"))}
# Alembic loads these by path and calls `upgrade` and `downgrade`: scripts, not modules.
MODULES = {name: tree for name, tree in TREES.items() if "/migrations/" not in name}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def dotted(node: ast.AST) -> str:
    """`a.b.c` as a string, "" for anything that is not names joined by dots."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (left := dotted(node.value)):
        return f"{left}.{node.attr}"
    return ""


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""


# --- no byte is unpickled --------------------------------------------------------------------------------------------------

UNPICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def unpickling(tree: ast.AST) -> list[str]:
    found = [name for name in imported(tree) if name.split(".")[0] in UNPICKLERS]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and dotted(node) in {"torch.load", "torch.save"}:
            found.append(dotted(node))
        if isinstance(node, ast.ImportFrom) and node.module == "torch":
            found += [f"torch.{alias.name}" for alias in node.names if alias.name in {"load", "save"}]
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            found.append("allow_pickle")
    return found


def test_nothing_unpickles():
    assert {name: found for name, tree in TREES.items() if (found := unpickling(tree))} == {}


@pytest.mark.parametrize(
    "source", ["import pickle", "from dill import loads", "torch.load(p)", "from torch import load", "np.load(p, allow_pickle=True)"]
)
def test_unpickling_is_found(source: str):
    assert unpickling(ast.parse(source))


# --- no global randomness --------------------------------------------------------------------------------------------------

SEEDERS = {"torch.manual_seed", "torch.seed", "torch.random.manual_seed", "torch.cuda.manual_seed", "torch.cuda.manual_seed_all"}
LIKE = {"rand_like", "randn_like", "randint_like"}
DRAWS = {f"torch.{name}" for name in LIKE | {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson"}}
DRAWS_IN_PLACE = {"normal_", "uniform_", "bernoulli_", "exponential_", "random_", "log_normal_", "cauchy_", "geometric_"}
# Constructors of generators of one's own; everything else in np.random is the global one.
NUMPY_GENERATORS = {"default_rng", "Generator", "BitGenerator", "SeedSequence", "PCG64", "PCG64DXSM", "Philox", "SFC64", "MT19937"}


def global_randomness(tree: ast.AST) -> list[str]:
    found = [name for name in imported(tree) if name == "random"]
    for node in ast.walk(tree):
        numpy_name = re.fullmatch(r"(?:np|numpy)\.random\.(\w+)", dotted(node))
        if numpy_name and numpy_name[1] not in NUMPY_GENERATORS:
            found.append(numpy_name[0])
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, keywords = dotted(node.func), {keyword.arg for keyword in node.keywords}
        if name in SEEDERS or ((name in DRAWS or node.func.attr in DRAWS_IN_PLACE) and not keywords & {"generator", None}):
            found.append(name or node.func.attr)
    return found


def test_nothing_touches_a_global_generator():
    assert {name: found for name, tree in TREES.items() if (found := global_randomness(tree))} == {}


@pytest.mark.parametrize(
    "source", ["import random", "torch.manual_seed(0)", "np.random.seed(0)", "torch.randn(3)", "torch.rand_like(x)", "w.normal_()"]
)
def test_global_randomness_is_found(source: str):
    assert global_randomness(ast.parse(source))


@pytest.mark.parametrize(
    "source", ["generator.manual_seed(0)", "torch.randn(3, generator=g)", "np.random.default_rng(0)", "w.normal_(generator=g)"]
)
def test_generators_of_ones_own_are_permitted(source: str):
    assert not global_randomness(ast.parse(source))


# --- an algorithm on four screens, an equation on one ----------------------------------------------------------------------


def test_an_algorithm_is_one_file_of_at_most_250_lines():
    lines = {name: len((ROOT / name).read_text().splitlines()) for name in TREES if name.startswith("tutelage/learn/")}
    assert {name: n for name, n in lines.items() if n > 250} == {}


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def test_an_equation_takes_at_most_40_lines():
    equations = [(name, f) for name, tree in TREES.items() if name.startswith("tutelage/equations/") for f in functions(tree)]
    lengths = {f"{name}::{f.name}": (f.end_lineno or f.lineno) - f.lineno + 1 for name, f in equations}
    assert {name: n for name, n in lengths.items() if n > 40} == {}


def test_equations_import_torch_and_numpy_only():
    permitted = {"torch", "numpy", "jaxtyping", *sys.stdlib_module_names}
    outside = {
        f"{name} imports {module}"
        for name, tree in TREES.items()
        if name.startswith("tutelage/equations/")
        for module in imported(tree)
        if module.split(".")[0] not in permitted and not module.startswith("tutelage.equations")
    }
    assert outside == set()


# --- one place for each thing ----------------------------------------------------------------------------------------------


def test_only_the_package_itself_reexports():
    rooms = {name: tree for name, tree in TREES.items() if name.endswith("/__init__.py") and name != "tutelage/__init__.py"}
    beyond_docstring = {name for name, tree in rooms.items() if len(tree.body) > (ast.get_docstring(tree) is not None)}
    assert beyond_docstring == set()


def test_every_folder_of_modules_is_a_package():
    # import-linter follows packages only: a room without __init__.py would escape the layers contract.
    folders = {(ROOT / name).parent for name in MODULES}
    assert {folder.relative_to(ROOT).as_posix() for folder in folders if not (folder / "__init__.py").exists()} == set()


def test_no_drawer_for_odds_and_ends():
    drawers = {"utils", "util", "common", "helpers", "helper", "misc", "base", "core", "tools"}
    assert {name for name in TREES if drawers & set(Path(name).with_suffix("").parts)} == set()


def test_imports_are_absolute():
    relative = {name for name, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level}
    assert relative == set()


# --- every public function says what it does -------------------------------------------------------------------------------


def public_functions(tree: ast.Module) -> Iterator[tuple[str, ast.ClassDef | None, Function]]:
    for node in tree.body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield node.name, None, node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for member in node.body:
                if isinstance(member, Function) and not member.name.startswith("_"):
                    yield f"{node.name}.{member.name}", node, member


def undocumented(modules: dict[str, ast.Module]) -> list[str]:
    """Public functions without a docstring. A method that overrides one of the package's documented methods inherits its words."""
    documented = {
        qualified for tree in modules.values() for qualified, _, node in public_functions(tree) if ast.get_docstring(node) is not None
    }
    missing: list[str] = []
    for name, tree in modules.items():
        for qualified, owner, node in public_functions(tree):
            parents = owner.bases if owner else []
            bases = [dotted(parent.value if isinstance(parent, ast.Subscript) else parent).rsplit(".", 1)[-1] for parent in parents]
            inherited = any(f"{base}.{node.name}" in documented for base in bases)
            other_half = any(dotted(mark).endswith((".setter", "overload")) for mark in node.decorator_list)
            if ast.get_docstring(node) is None and not inherited and not other_half:
                missing.append(f"{name}::{qualified}")
    return missing


def test_every_public_function_has_a_docstring():
    assert undocumented(MODULES) == []


def test_undocumented_functions_are_found():
    source = 'class A:\n    def f(self):\n        "Says."\n    def g(self): ...\nclass B(A):\n    def f(self): ...\n'
    source += "def h(): ...\ndef _i(): ...\n"
    assert undocumented({"m.py": ast.parse(source)}) == ["m.py::A.g", "m.py::h"]


# --- the files around the package say the same -----------------------------------------------------------------------------

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def pins() -> dict[str, str]:
    lines = [line.strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {name_of(name): version for name, version in pairs}


def test_every_dependency_is_pinned_to_a_tested_version():
    extras = [requirement for group in PROJECT["optional-dependencies"].values() for requirement in group]
    wanted = {name_of(requirement) for requirement in PROJECT["dependencies"] + extras}
    assert wanted - pins().keys() == set()


def test_the_makefile_keeps_a_torch_of_the_same_range():
    least = next(requirement for requirement in PROJECT["dependencies"] if name_of(requirement) == "torch").partition(">=")[2]
    assert f">= ({', '.join(least.split('.'))})" in (ROOT / "Makefile").read_text()


def test_every_extra_is_installed_for_the_tests():
    installed = re.search(r"^EXTRAS := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert installed is not None
    assert set(installed[1].split(",")) == PROJECT["optional-dependencies"].keys()
