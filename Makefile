# make help lists what there is. Everything runs in .venv, made on first use; PYTHON= chooses the interpreter for it.

PYTHON ?= python3
# A URL or a folder, for pip's -i.
TORCH_INDEX ?=
# For bench: a checkout of nanoGPT, names of optimizers with commas between, and NAME=PATH of checkouts of others' code.
NANOGPT ?=
ONLY ?=
REFERENCES ?=
WORKERS ?= 2
# For bench: what to measure, the length of a call, and what else python -m scripts.bench takes.
PART ?= all
MINUTES ?= 9
OPTIONS ?=
# For verdict: a name of configs/optimizer or package.module.Class, and an entry of configs/verdict.yaml.
OPTIMIZER ?=
SCALE ?= tiny

# For install: downstream, the evaluation harness of scripts.downstream; tensorboard, for scripts.adopt; or both in quotes.
EXTRAS ?=
# For public: checkouts of what configs/public names.
MARIN ?=
TRACK3 ?=

VENV := .venv
RUN := $(VENV)/bin/python
NOTHING :=
INSTALLED := $(VENV)/installed$(subst $(NOTHING) $(NOTHING),,$(addprefix -,$(EXTRAS)))
PIP := $(RUN) -m pip --disable-pip-version-check --no-input install -c constraints.txt
# One thread per process: two processes of two threads each on two cores take three times as long. A file's tests stay
# in one process, so that what they share is computed once.
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help install demo verdict test test-slow test-all test-slurm test-external docs site tables coverage lint \
	format bench public board clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Settings, as in make install PYTHON=python3.12:"
	@echo "  PYTHON            the interpreter that .venv is made with, 3.11 to 3.13 ($(PYTHON))"
	@echo "  EXTRAS            for make install: downstream (the harness of scripts.downstream, 360 MB more), tensorboard (scripts.adopt)"
	@echo "  TORCH_INDEX       another package index for torch alone: for its CPU build, or your CUDA's (make clean first)"
	@echo "  WORKERS           processes that run the tests ($(WORKERS))"

install: $(INSTALLED) ## make .venv with the pinned requirements (1.5 GB; again only when they change)

# torch comes first and alone, so that its index is asked for nothing else. The stamp is written last: an install that
# fails or is cut off leaves none, and the next one goes on from what is there.
$(INSTALLED): requirements.txt requirements-dev.txt constraints.txt
	@command -v "$(PYTHON)" > /dev/null || { \
		echo "halfstep: there is no $(PYTHON): give Python 3.11, 3.12 or 3.13, as in make install PYTHON=python3.12" >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else "halfstep \
	needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is %d.%d: give another, as in make install PYTHON=python3.12" % v)'
	@rm -f $@
	"$(PYTHON)" -m venv $(VENV)
	$(PIP) --no-deps $(if $(TORCH_INDEX),-i "$(TORCH_INDEX)") torch
	$(PIP) -r requirements.txt -r requirements-dev.txt $(foreach extra,$(EXTRAS),-r requirements-$(extra).txt)
	@touch $@ $(VENV)/installed

demo: install ## race 6 optimizers for minutes on the embedded corpus: a live table, who led, and results/demo/report.html
	$(RUN) -m scripts.demo
	@echo "The page is results/demo/report.html. make demo again shows the same runs; rm -r results/demo first to train anew."

verdict: install ## is it faster than AdamW? OPTIMIZER=lion or my_package.MyOpt, SCALE=tiny or small; a page in results/verdicts
	@test -n "$(OPTIMIZER)" || { echo "halfstep: give the optimizer, as in make verdict OPTIMIZER=lion" >&2; exit 2; }
	$(RUN) -m scripts.verdict "$(OPTIMIZER)" --scale "$(SCALE)"

test: install ## every quick test: a few minutes on two cores
	$(PYTEST) -m "not slow"

test-slow: install ## the others: processes of their own, killed runs, every case of what test has one of
	$(PYTEST) -m slow

test-all: install ## every test, the exhaustive ones too
	$(PYTEST)

test-slurm: install ## sweeps on a real SLURM of one node, started for it (Debian's slurm-wlm and munge)
	OMP_NUM_THREADS=1 $(RUN) -m tests.slurm

# Apart from .venv: these packages are no requirement. What they depend on is in .venv already.
.external/installed: requirements-external.txt $(INSTALLED)
	$(PIP) --no-deps --upgrade --target .external -r requirements-external.txt
	@touch $@

test-external: .external/installed ## try every optimizer class of eight packages, each in its own process: docs/external.md
	OMP_NUM_THREADS=1 PYTHONPATH=.external $(RUN) -m tests.external

lint: install ## ruff's rules and layout, and mypy's types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: install ## lay the code out as lint wants it
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

docs: install ## write docs/optimizers.md anew, out of the code
	$(RUN) -m scripts.document_optimizers

site: install ## build docs/ into site/, plain files that a browser opens: site/index.html
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

tables: install ## write every table in results/, README and docs/ anew, out of the committed runs
	$(RUN) -m scripts.make_tables

coverage: install ## the table of docs/interval.md anew: how often intervals hold the truth, in made-up studies (minutes)
	OMP_NUM_THREADS=1 $(RUN) -m tests.coverage

bench: install ## what this device does: PART=all, updates, train, step or drift; NANOGPT=path REFERENCES="soap=../SOAP"
	$(RUN) -m scripts.bench $(PART) --minutes $(MINUTES) $(if $(NANOGPT),--nanogpt "$(NANOGPT)") $(if $(ONLY),--only "$(ONLY)") \
		$(foreach checkout,$(REFERENCES),--reference "$(checkout)") $(OPTIONS)

public: install ## collect runs that others published: TRACK3=checkout of modded-nanogpt MARIN=checkout of WhenWen/marin
	@test -n "$(MARIN)$(TRACK3)" || { echo "halfstep: give TRACK3=FOLDER or MARIN=FOLDER, checkouts of what configs/public names" >&2; exit 2; }
	$(if $(MARIN),$(RUN) -m scripts.public collect wen2025 "$(MARIN)")
	$(if $(TRACK3),$(RUN) -m scripts.public collect track3 "$(TRACK3)")
	$(RUN) -m scripts.make_tables

board: install ## draw docs/board.html and its picture: every optimizer's speed-up over AdamW, from our runs and from others'
	$(RUN) -m scripts.board

clean: ## remove .venv and the tools' caches; results stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
