# `make study` and `make test` set up what they need themselves; a second call finds it done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: study test slow-test cluster-test crash-test gpu-check baseline baseline-check lint types audit check clean

study: $(VENV)/.study
	@$(BIN)/bench run --optimizers all --epochs 20; code=$$?; \
	if [ $$code -ne 2 ] && [ $$code -ne 130 ]; then $(BIN)/bench report; fi; \
	[ $$code -eq 0 ] || [ $$code -eq 5 ]  # 5: every run was there already

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadscope -m "not kills and not cluster and not slow"

# Whole studies and long training runs: about five minutes.
slow-test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadscope -m "slow and not kills and not cluster"

# Four optimizers × 5 seeds in about a minute: does each still train as well as when its baseline was committed?
BASELINE := results/reference/mini.json

baseline-check: $(VENV)/.test
	$(BIN)/bench check --run --baseline $(BASELINE)

# A Ray cluster of several nodes on this machine, one of which is lost, and runs of several processes: three minutes.
cluster-test: $(VENV)/.test
	$(BIN)/pytest -m cluster tests/engines tests/test_ddp.py

# `kill -9` at random moments, runs that hang, full disks: about four minutes, and ten more with BENCH_KILLS=100.
crash-test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -o timeout=3600 -m kills tests/test_crashes.py tests/search/test_tune.py

baseline: $(VENV)/.test
	$(BIN)/bench run --protocol mini --epochs 8 --optimizers sgd,adamw,gda2,universal_muon_preserve --study baseline; \
	code=$$?; [ $$code -eq 0 ] || [ $$code -eq 5 ]
	$(BIN)/bench baseline update baseline --output $(BASELINE); code=$$?; [ $$code -eq 0 ] || [ $$code -eq 5 ]

# Where a GPU is at hand: its tests, every measurement, the standard study and a search, in at most ten minutes.
# GPU_PYTHON=python3 takes an interpreter that has everything instead of the project's environment.
GPU_PYTHON ?= $(BIN)/python

gpu-check: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),$(VENV)/.test)
	$(GPU_PYTHON) .ci/gpu_check.py $(OUT)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/pyright

# Faults of the source by bandit, and what is known against the installed packages where that can be looked up.
audit: $(VENV)/.test
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive bench optimizers models datasets
	$(BIN)/python .ci/audit.py

check: lint types audit test slow-test

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis

# One rule for both environments: the stamp .study holds the package, .test adds what the tests need. `uv` where it is
# on the path, else venv and pip.
$(VENV)/.study: EXTRAS := .
$(VENV)/.test: EXTRAS := .[dev]
$(VENV)/.study $(VENV)/.test: pyproject.toml
	@if command -v uv >/dev/null; then \
		test -x $(BIN)/python || uv venv --quiet --python $(PYTHON) $(VENV); \
		uv pip install --quiet --python $(BIN)/python --editable '$(EXTRAS)'; \
	else \
		test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '$(EXTRAS)'; \
	fi
	@touch $@
