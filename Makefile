# Everything happens in .venv, which is made on first use. `make help` lists what there is.

PYTHON ?= python3
# Another build of torch: make install TORCH="torch==2.13.0+cu130" (on the first run only; `make clean` starts over)
TORCH ?= torch==2.13.0
WORKERS ?= 2
DEMO ?= demo-run

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint .ci/constraints.txt
# Newer than what it was made from: nothing is installed again.
INSTALLED := .venv/installed

.DEFAULT_GOAL := help
.PHONY: help install demo test check fix bench soak clean

help: ## Show this list
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

$(INSTALLED): pyproject.toml .ci/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "error: $(PYTHON) is not Python 3.11, 3.12 or 3.13"; echo "  fix: make PYTHON=python3.12"; exit 2; }
	@echo "installing into .venv (torch first: this takes a few minutes)"
	$(PYTHON) -m venv .venv
	$(PIP) $(TORCH)
	$(PIP) hatchling
	$(PIP) --no-build-isolation --editable '.[all,dev,parity]'
	@touch $@

install: $(INSTALLED) ## Make .venv with llmkit, its extras and the tools, all pinned

demo: $(INSTALLED) ## From nothing to a chat on built-in data: 10 to 16 minutes on 2 cores, then see demo-run/report.html
	PATH="$(CURDIR)/$(BIN):$$PATH" bash recipes/demo.sh $(DEMO)

test: $(INSTALLED) ## Run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --quiet --numprocesses $(WORKERS)

check: $(INSTALLED) ## Format, lint, types, and a README in step with the commands
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/cog --check README.md

fix: $(INSTALLED) ## Mend the format, what lint can, and the generated parts of the README
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/cog -r README.md

bench: $(INSTALLED) ## Measure beside litgpt, Trainer and Lightning; with MODEL, ROWS and TASK beside TRL and lm-eval too
	$(BIN)/python tests/benchmarks/bench_pretrain.py
	$(BIN)/python tests/benchmarks/bench_baseline.py
	$(BIN)/python tests/benchmarks/bench_overhead.py
	$(BIN)/python tests/benchmarks/bench_checkpoint.py
	$(BIN)/python tests/benchmarks/bench_tokenizer.py
ifdef MODEL
	$(BIN)/python tests/benchmarks/bench_finetune.py --model $(MODEL) --data $(ROWS)
	$(BIN)/python tests/benchmarks/bench_evaluate.py --model $(MODEL) --data $(TASK)
endif

soak: $(INSTALLED) ## Kill runs hundreds of times, and see that none is lost: under an hour
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/soak.py

clean: ## Remove .venv and what the tools left behind; runs stay
	rm -rf .venv .venv-peers .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
