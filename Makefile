# GNU make. Every target sets up .venv first if need be, and can be run again after an interruption.

# A finished .venv is looked after by its own Python, so that PYTHON=python3.11 need be given only once.
PYTHON ?= $(shell test -e .venv/ready && .venv/bin/python -c '' 2>/dev/null && echo .venv/bin/python || echo python3)
RUN := .venv/bin/python

DATASET := datasets/orl
MODEL := models/d63-arcface-orl/model

.PHONY: help demo test bench lint clean set-up

help:
	@echo "make demo    train a small network on the ORL faces and measure it"
	@echo "make test    check the style, then run every test"
	@echo "make bench   measure side by side with other libraries"
	@echo "make lint    check the style alone"
	@echo "make clean   remove .venv and caches; data sets and models stay"
	@echo "Each sets itself up in .venv; choose the Python with make PYTHON=python3.11 TARGET"

demo: set-up
	$(RUN) -m denseface dataset orl $(DATASET) --holdout 31-40
	$(RUN) train.py --network d63 --dataset orl --loss arcface --resume
	$(RUN) -m denseface verify --model $(MODEL) $(DATASET)/orl.bin
	@echo
	@echo "Next:"
	@echo "  $(RUN) -m denseface export --model $(MODEL) -o model.onnx"
	@echo "  $(RUN) -m denseface embed --model $(MODEL) PICTURES -o embeddings.npz"
	@echo "  $(RUN) -m denseface --help"

test: lint
	$(RUN) -m pytest

bench: set-up
	$(RUN) -m bench

lint: set-up
	$(RUN) -m ruff check .

set-up:
	@$(PYTHON) tools/bootstrap.py

clean:
	rm -rf .venv .venv.lock build dist denseface.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
