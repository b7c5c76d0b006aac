# One word for each thing a developer does; `make` lists them. Needs Python 3.11 with pip, and make.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# optional packages: ONNX, DICOM SEG, MLflow, the Zoo's code checks; what tests them skips itself without them
EXTRAS := requirements-onnx.txt requirements-openvino.txt requirements-dicom.txt requirements-mlflow.txt requirements-zoo.txt
READY_EXTRAS := .venv/.ready-extras
OLDEST_BIN := .venv-oldest/bin
OLDEST_READY := .venv-oldest/.ready
LABEL_BIN := .venv-label/bin
LABEL_READY := .venv-label/.ready
# === asks for PyPI's builds, which fit each other; the CPU builds both come from an index of their own
LABEL_TORCH ?= torch===2.13.0 torchvision===0.28.0
LABEL_CPU ?= torch==2.13.0+cpu torchvision==0.28.0+cpu --extra-index-url https://download.pytorch.org/whl/cpu
SCHEMA := tests/schema/meta_schema_20240725.json

# A key that stands twice in a config is an error; small tensors are slower on several threads than on one.
export MONAI_FAIL_ON_DUPLICATE_CONFIG := 1
test test-all test-oldest test-label test-zoo mutants: export OMP_NUM_THREADS := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup lint format types test test-all test-oldest test-label test-zoo versions mutants demo label-demo notebook metadata zoo clean

help:  ## list these words
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(READY)  ## make .venv with requirements.txt and requirements-dev.txt

# torch first and by itself: whatever build of it the machine's package index offers must not be replaced by the rest.
$(READY): requirements.txt requirements-dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' requirements.txt)"
	$(BIN)/python -m pip install --quiet -r requirements.txt -r requirements-dev.txt
	touch $@

$(READY_EXTRAS): $(READY) $(EXTRAS)
	$(BIN)/python -m pip install --quiet $(addprefix -r ,$(EXTRAS))
	touch $@

lint: $(READY)  ## ruff: rules and formatting; mypy: types; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## ruff: sort imports, mend what can be mended, format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY)  ## mypy on scripts/, a part of lint
	$(BIN)/mypy

# A file's tests stay in one process, since they share what they train.
test: $(READY)  ## all tests but those marked slow, reliability (a sample of them runs) or gpu
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-all: $(READY_EXTRAS) test-label test-oldest  ## all tests, optional packages and oldest versions too; those for a GPU skip themselves without one
	$(BIN)/python -m pytest -m "not label"

$(OLDEST_READY): requirements-oldest.txt requirements-dev.txt
	test -x $(OLDEST_BIN)/python || $(PYTHON) -m venv .venv-oldest
	$(OLDEST_BIN)/python -m pip install --quiet "$$(grep '^torch==' requirements-oldest.txt)" "$$(grep '^numpy==' requirements-oldest.txt)"
	$(OLDEST_BIN)/python -m pip install --quiet -r requirements-oldest.txt -r requirements-dev.txt
	touch $@

test-oldest: $(OLDEST_READY)  ## what `make test` runs, with the oldest versions (requirements-oldest.txt)
	$(OLDEST_BIN)/python -m pytest

# the newest releases of all that requirements.txt and requirements-dev.txt name, on one Python
.venv-newest-%/.ready: requirements.txt requirements-dev.txt
	test -x $(@D)/bin/python || python$* -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet torch
	sed '/^#/d; s/==.*//' $^ | xargs $(@D)/bin/python -m pip install --quiet
	touch $@

versions: $(READY) $(OLDEST_READY)  ## the tests with pinned, oldest and newest versions, the last on each Python from 3.11 to 3.13 that is there
	for v in 3.11 3.12 3.13; do if python$$v -c "" 2> /dev/null; then $(MAKE) .venv-newest-$$v/.ready || exit 1; fi; done
	$(BIN)/python -m scripts benchmark versions

mutants: $(READY)  ## change 200 single expressions and see whether a test notices, counted in docs/results/reliability.json
	$(BIN)/python -m scripts benchmark mutants

# MONAI Label asks for packages with which it does not start, hence --no-deps: requirements-label.txt has what it needs.
$(LABEL_READY): requirements-label.txt
	@echo "installing MONAI Label 0.8.5 and what it runs with into .venv-label: 7.4 GB with PyPI's torch, about 3.5 GB with its CPU build"
	test -x $(LABEL_BIN)/python || $(PYTHON) -m venv .venv-label
	if command -v nvidia-smi || test -z "$(LABEL_CPU)" || ! $(LABEL_BIN)/python -m pip install --quiet --retries 1 $(LABEL_CPU); then \
		echo "taking PyPI's torch" && $(LABEL_BIN)/python -m pip install --quiet $(LABEL_TORCH); fi
	$(LABEL_BIN)/python -m pip install --quiet -r requirements-label.txt
	$(LABEL_BIN)/python -m pip install --quiet --no-deps monailabel==0.8.5
	touch $@

test-label: $(READY) $(LABEL_READY)  ## a MONAI Label server with this bundle on phantoms: infer, train, bad input
	$(BIN)/python -m pytest -m label

label-demo: $(LABEL_READY)  ## a MONAI Label server with phantoms, a few of them labelled
	$(LABEL_BIN)/python -m scripts label_demo

test-zoo: $(READY_EXTRAS)  ## what the Model Zoo verifies, on a folder assembled with small weights trained on phantoms
	$(BIN)/python -m pytest -m "" tests/integration/test_zoo.py tests/integration/test_zoo_folder.py

demo: $(READY)  ## a real scan labelled; both stages on phantoms, a table and pictures; minutes on a CPU
	$(BIN)/python -m scripts demo

notebook: $(READY)  ## run docs/tutorial.ipynb from top to bottom, in place; minutes on a CPU
	$(BIN)/python -m scripts tutorial

zoo: $(READY)  ## the folder for MONAI's Model Zoo: make zoo WEIGHTS=models/model.pt URL=https://... TRAINED_ON="sentence"
	$(BIN)/python -m scripts zoo --weights "$(WEIGHTS)" --url "$(URL)" --trained-on "$(TRAINED_ON)"

metadata: $(READY)  ## metadata.json: both copies equal, the Zoo's schema, the network's input and output
	cmp metadata.json configs/metadata.json
	$(BIN)/python -m monai.bundle verify_metadata --meta_file configs/metadata.json --filepath $(SCHEMA)
	$(BIN)/python -m monai.bundle verify_net_in_out network_def --meta_file configs/metadata.json \
		--config_file configs/inference.yaml

clean:  ## remove caches of the tools; runs, models and .venv stay
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage
	find . -path ./.venv -prune -o -type d -name __pycache__ -exec rm -rf {} +
