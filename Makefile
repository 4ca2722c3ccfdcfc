# GNU make. Each target makes .venv ready first, and can be repeated after an interruption.

RUN := .venv/bin/python
TESTED := 3.9 3.10 3.11 3.12 3.13
# For GPUs mxnet-cu117==1.9.1, and what docs/gpu.md says.
MXNET := mxnet==1.9.1
EXTRAS := train,onnx,openvino,insightface,detect,heic,jpeg,plots,demo,test
PIP := $(RUN) -m pip install --no-input --disable-pip-version-check

# The stamp of a finished .venv names its Python. A .venv without it was interrupted, or its Python was upgraded or removed.
version = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
FINISHED := $(wildcard .venv/ready-$(call version,$(RUN)))
# A finished .venv is used without PYTHON= being given again.
PYTHON ?= $(if $(FINISHED),$(RUN),python3)
VERSION := $(call version,$(PYTHON))
READY := .venv/ready-$(VERSION)
REUSED := $(filter $(READY),$(FINISHED))

DATASET := datasets/orl
PEOPLE := $(DATASET)/holdout
MODEL := models/d15-arcface-orl/model

.PHONY: help demo test torture bench lint clean set-up ready always

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
	$(RUN) train.py --recipe small --dataset orl --resume
	$(RUN) -m denseface verify --model $(MODEL) $(DATASET)/orl.bin
	$(RUN) -m denseface report --model $(MODEL) $(DATASET)/orl.bin -o report.html \
	--trained-on "30 people of the ORL faces of AT&T Laboratories Cambridge"
	@echo
	@echo "Next, with people whom the model has never seen:"
	@echo "  $(RUN) -m denseface match --model $(MODEL) $(PEOPLE)/s31/1.jpg $(PEOPLE)/s31/8.jpg"
	@echo "  $(RUN) -m denseface embed --model $(MODEL) $(PEOPLE) -o people.npz"
	@echo "  $(RUN) -m denseface search --model $(MODEL) people.npz $(PEOPLE)/s31/1.jpg"
	@echo "  $(RUN) -m denseface export --model $(MODEL) -o model.onnx"

test: lint
# Two processes of one thread are faster than one of two; each takes up to 5 GB of memory. What MXNet says while a
# process dies is shown, not captured.
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses 2 --dist worksteal --capture=sys

torture: set-up
	$(RUN) -m pytest -m torture -rP

bench: set-up
	$(RUN) -m bench

lint: set-up
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

set-up:
	@flock --nonblock .venv.lock true || echo "set-up: waiting for another set-up"
	@flock .venv.lock $(MAKE) --no-print-directory ready

ready: $(READY)
	@:

define stop
{ echo "set-up: $(1)" >&2; exit 1; }
endef

$(READY): setup.cfg constraints.txt $(if $(REUSED),,always)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 9))' || $(call stop,denseface needs one of Python \
	$(TESTED); $(PYTHON) is $(or $(VERSION),missing): choose another with make PYTHON=python3.11)
	@$(if $(filter $(TESTED),$(VERSION)),,echo "set-up: denseface is tested on Python $(TESTED); this is $(VERSION)")
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(call stop,$(PYTHON) cannot make virtual environments: \
	install python$(VERSION)-venv (apt install python$(VERSION)-venv))
	@rm -f .venv/ready-*
	$(if $(REUSED),,$(PYTHON) -m venv --clear .venv)
	$(PIP) -c constraints.txt setuptools
	$(PIP) -c constraints.txt --no-build-isolation --editable '.[$(EXTRAS)]'
# No extra brings MXNet: its metadata ask for a NumPy that Python 3.13 cannot have, and the package for GPUs is another.
	$(PIP) --no-deps $(MXNET)
	@$(RUN) -c 'import denseface, mxnet' || $(call stop,MXNet cannot be imported; install what it misses \
	(libgomp.so.1: apt install libgomp1))
	@touch $@

clean:
	rm -rf .venv .venv.lock build dist denseface.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
