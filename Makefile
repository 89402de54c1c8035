# make demo and make test each set up everything they need, from a fresh clone.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)

ifeq ($(UV),)
CREATE = $(PYTHON) -m venv $(VENV)
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e
else
CREATE = $(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
INSTALL = $(UV) pip install --quiet --python $(BIN)/python -c constraints.txt -e
endif

.PHONY: help demo test slow lint report ui bench clean

help:            ## Show the targets.
	@awk -F':.*## *' '/^[a-z]+:.*## /{printf "make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed  ## Install, meta-train on the bundled digits, compare with tuned baselines.
	$(BIN)/l2l-train experiment=digits

test: $(VENV)/.installed-dev  ## Install and run the tests (a few minutes).
	$(BIN)/python -m pytest -n 2

slow: $(VENV)/.installed-dev  ## The tests that take long.
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed-dev  ## Formatting, lint rules, types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

report: $(VENV)/.installed  ## Run two studies here, and make report/index.html of them and of the shipped results.
	$(BIN)/l2l-train sweeps=fig4_mlp hydra/launcher=joblib hydra.launcher.n_jobs=2
	$(BIN)/l2l-evaluate sweeps=fig4_mlp_200
	$(BIN)/l2l-report folders=multirun results=results

ui: $(VENV)/.installed  ## Look at the latest study, and all runs, in MLflow at http://127.0.0.1:5000
	$(BIN)/python -m l2l_exp.ui

bench: $(VENV)/.installed  ## Measure what README and CHANGELOG say about speed.
	$(BIN)/python -m benchmarks

clean:           ## Remove the environment; results stay.
	rm -rf $(VENV)

# A stamp, not the folder, says that the environment is whole.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(CREATE) || { rm -rf $(VENV); exit 1; }
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (minutes the first time)"
	@$(INSTALL) .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Adding the development tools"
	@$(INSTALL) ".[dev]"
	@touch $@
