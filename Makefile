# GNU make. Every target sets up .venv first if need be, and can be run again after an interruption.

# A finished .venv is looked after by its own Python, so that PYTHON=python3.11 need be given only once.
PYTHON ?= $(shell test -e .venv/ready && .venv/bin/python -c '' 2>/dev/null && echo .venv/bin/python || echo python3)
RUN := .venv/bin/python

DATASET := datasets/orl
PEOPLE := $(DATASET)/holdout
MODEL := models/d63-arcface-orl/model
# docs/orl.md says how it was chosen.
RECIPE := --network d63 --dataset orl --loss arcface --set loss_m2=0.3 --set emb_size=128

.PHONY: help demo test torture bench lint clean set-up

help:
	@echo "make demo    train a small network on the ORL faces and measure it"
	@echo "make test    check the style, then run every test"
	@echo "make torture break everything that can break, for an hour or so"
	@echo "make bench   measure side by side with other libraries"
	@echo "make lint    check the style alone"
	@echo "make clean   remove .venv and caches; data sets and models stay"
	@echo "Each sets itself up in .venv; choose the Python with make PYTHON=python3.11 TARGET"

demo: set-up
	$(RUN) -m denseface dataset orl $(DATASET) --holdout 31-40
	$(RUN) train.py $(RECIPE) --resume
	$(RUN) -m denseface verify --model $(MODEL) $(DATASET)/orl.bin
	@echo
	@echo "Next, with people whom the model has never seen:"
	@echo "  $(RUN) -m denseface match --model $(MODEL) $(PEOPLE)/s31/1.jpg $(PEOPLE)/s31/8.jpg"
	@echo "  $(RUN) -m denseface embed --model $(MODEL) $(PEOPLE) -o people.npz"
	@echo "  $(RUN) -m denseface search --model $(MODEL) people.npz $(PEOPLE)/s31/1.jpg"
	@echo "  $(RUN) -m denseface export --model $(MODEL) -o model.onnx"

test: lint
	$(RUN) -m pytest

torture: set-up
	$(RUN) -m pytest -m torture -rP

bench: set-up
	$(RUN) -m bench

lint: set-up
	$(RUN) -m ruff check .

set-up:
	@$(PYTHON) tools/bootstrap.py

clean:
	rm -rf .venv .venv.lock build dist denseface.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
