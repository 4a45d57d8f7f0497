# Every target makes .venv when it is missing, with plain venv and pip: your own pip configuration (index, find-links,
# certificates) decides where packages come from. `make PYTHON=python3.12 test` chooses the interpreter.

PYTHON ?= python3
RUN := .venv/bin/python
READY := .venv/.ready
EXTRAS := control,atari,zoo,postgres,tracking,web,language,docs,dev

# One thread per process: pytest runs two of them, and on busy cores a second thread can stall a step for 0.2 s.
test reliability: export OMP_NUM_THREADS = 1

.PHONY: demo test lint docs bench reliability

demo: $(READY) ## teach an agent from preferences and print where the report is
	$(RUN) -m tutelage.recipes.pendulum demo

test: lint ## everything that can be checked in minutes
	$(RUN) -m pytest -n 2

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright --project pyproject.toml # else a pyrightconfig.json in a parent folder would win
	.venv/bin/lint-imports

docs: $(READY) ## the pages, in docs/_build; a warning is an error
	$(RUN) -m sphinx --fail-on-warning --keep-going --builder html docs docs/_build

bench: $(READY) ## speed beside the peers, each in an environment of its own under benchmarks/.venvs
	$(RUN) benchmarks/run.py

reliability: $(READY) ## the full counts of kills and resumes; appends to benchmarks/results/reliability.jsonl
	TUTELAGE_KILLS=30 TUTELAGE_SAVE_KILLS=200 TUTELAGE_LABEL_KILLS=100 TUTELAGE_ROOM_KILLS=200 TUTELAGE_RELIABILITY_ROW=1 $(RUN) -m pytest tests/reliability

# A torch that satisfies pyproject's range is kept, whichever build it is: a .venv sees the interpreter's own torch when there
# is one, and the constraint on torch is dropped.
HAS_TORCH := -c 'from importlib.metadata import version; assert tuple(map(int, version("torch").split(".")[:2])) >= (2, 11)' 2>/dev/null

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and f"$(PYTHON) is Python {v}; tutelage needs 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	test -x .venv/bin/pip || $(PYTHON) -m venv $$($(PYTHON) $(HAS_TORCH) && echo --system-site-packages) .venv
	if $(RUN) $(HAS_TORCH); then grep -v '^torch==' constraints.txt; else cat constraints.txt; fi > .venv/constraints.txt
	$(RUN) -m pip install --disable-pip-version-check -c .venv/constraints.txt -e '.[$(EXTRAS)]'
	@touch $@
