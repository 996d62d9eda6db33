# Every habit of the project is a target. Those that need the environment set it up first: .venv, once per pyproject.toml.
PYTHON ?= python3
PORT ?= 8000
ROOT ?= out/demo/root
SIZE ?= tiny
DEVICE ?= cpu
PHOTOS ?= 10000
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Waiting threads sleep: on a busy machine spinning ones take the cores from those they wait for.
THREADS := OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE TOKENIZERS_PARALLELISM=false

.DEFAULT_GOAL := help
.PHONY: help install demo evaluate test test-slow test-page lint format bench cases serve studio soak clean

help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## the environment .venv with every pinned dependency (the others do this by themselves)

demo: $(STAMP) ## photos in, pictures out, offline: writes out/demo/contact_sheet.png and report.html
	$(BIN)/identity-factory demo --out out/demo

evaluate: $(STAMP) ## the paper's tables on held-out people, into docs/results: under an hour; QUICK=1: minutes, into out/
	$(BIN)/identity-factory evaluate $(if $(QUICK),--quick)

test: $(STAMP) ## the fast tests (some nine minutes on two cores)
	$(THREADS) $(BIN)/python -m pytest -q -n 3 --dist loadgroup

test-slow: $(STAMP) ## the slow tests, such as a full-size SD 2.1 pack with random weights
	$(THREADS) $(BIN)/python -m pytest -q -m slow --timeout=3600

test-page: $(STAMP) ## the page in a real browser; installs one where there is none, and renews the screenshots of docs/page
	@$(BIN)/python -c 'import playwright' 2>/dev/null || $(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[demo,dev,studio,page]'
	@command -v chromium chromium-browser google-chrome >/dev/null || $(BIN)/python -m playwright install --with-deps chromium
	mkdir -p docs/page
	PAGE_SCREENSHOTS=docs/page $(THREADS) $(BIN)/python -m pytest -q -m page tests/test_browser*.py --timeout=600

lint: $(STAMP) ## ruff, mypy (strict) and import-linter
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports --no-cache

format: $(STAMP) ## let ruff mend what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) ## seconds of training and drawing against the usual ways (make bench SIZE=tiny|studio|sd21 DEVICE=cpu|cuda)
	$(BIN)/python -m benchmarks.train_identity --device $(DEVICE) --size $(SIZE) --out out/bench/train_identity_$(SIZE)_$(DEVICE)
	$(BIN)/python -m benchmarks.generate --device $(DEVICE) --size $(SIZE) --out out/bench/generate_$(SIZE)_$(DEVICE)
	$(BIN)/python -m benchmarks.serve --size $(SIZE) --out out/bench/serve_$(SIZE)
	$(BIN)/python -m benchmarks.prepare
	$(BIN)/python -m benchmarks.lookup
	$(BIN)/python -m benchmarks.scale

cases: $(STAMP) ## inputs as people report them, against what a user expects: ten minutes or so (make cases ONLY=P01,N04)
	$(BIN)/python -m benchmarks.cases $(if $(ONLY),--only $(ONLY))

serve: $(STAMP) ## the HTTP endpoint on the identities of ROOT (make serve ROOT=... PORT=8000)
	@[ $(ROOT) != out/demo/root ] || [ -d out/demo/root ] || { echo "there is no out/demo/root yet: run \`make demo\` first, or say make serve ROOT=..." >&2; exit 1; }
	$(BIN)/identity-factory serve --root $(ROOT) --port $(PORT)

studio: $(STAMP) ## train the studio pack from nothing: hours on a CPU; stopped, it goes on where it was (docs/studio.md)
	$(BIN)/python -m studio all

soak: $(STAMP) ## hours: 20 kills, poison, PHOTOS photos with bad ones and copies, a failing S3, two jobs at once (out/soak)
	$(BIN)/python -m benchmarks.soak kills --photos 200 --kills 20
	$(BIN)/python -m benchmarks.soak poison --photos 300
	$(BIN)/python -m benchmarks.soak s3 --photos 300
	$(BIN)/python -m benchmarks.soak twice --photos 100
	$(BIN)/python -m benchmarks.kills --kills 50 --out out/soak/kills.md
	$(BIN)/python -m benchmarks.soak bulk --photos $(PHOTOS) --steps 2

clean: ## what the demo and the checks wrote; keeps .venv and any training state
	rm -rf out/demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# One pip command for everything, so that nothing resolves to another torch. Two makes at once: the second one waits for
# the first (where flock exists) and then finds the stamp.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "identity-factory needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@exec 9>.venv.lock; if command -v flock >/dev/null; then flock 9; fi; \
	if [ $@ -nt pyproject.toml ]; then exit 0; fi; \
	echo "Setting up $(VENV), once: about three minutes."; set -e; \
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV); \
	$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[demo,dev,studio]'; \
	touch $@
