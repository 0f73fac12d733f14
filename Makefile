# make reproduce   the virtual environment, then Table 2 and its plot from the shipped weights
# make test        the virtual environment, then all tests
# make help        everything else

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
# Folder of tensorflow-datasets: DATA_DIR=..., or one beside the project, or the usual one.
DATA_DIR ?= $(patsubst %/,%,$(wildcard ../shared/tensorflow_datasets/))
ifneq ($(DATA_DIR),)
export TFDS_DATA_DIR := $(DATA_DIR)
endif
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: help reproduce test test_jax test_torch lint report table1 table2 figure1 figure2 figure3 figure4 figure5 \
	figure6a figure6b figure6c figure6d swish_sets efficiency pareto finetune benchmark clean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9_]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

reproduce: table2  ## install, then Table 2 and its plot from the shipped weights (a few minutes)

# Two processes, files as they are; each keeps to one thread, see tests/conftest.py.
PYTEST := $(RUN) -m pytest -n 2 --dist loadfile
test: $(VENV)/installed  ## install, then all tests
	$(PYTEST) tests

# What does not need TensorFlow, on the other backends.
CORE := neuron layers pooling folding simulation profiling comparison rate_coding conversion refinement evaluation
test_jax test_torch: test_%: $(VENV)/installed
	$(RUN) -m pip install --quiet --editable ".[$*]" $(TORCH)
	KERAS_BACKEND=$* $(PYTEST) $(CORE:%=tests/test_%.py)
test_jax:  ## the tests of the core modules on JAX
test_torch:  ## the tests of the core modules on PyTorch; TORCH=torch==2.13.0 for that version

lint: $(VENV)/linters  ## style and types: ruff and mypy
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy fs_neurons

report: $(VENV)/installed  ## all tables and figures on one page, results/index.html
	$(RUN) -m experiments.report

table2: $(VENV)/installed  ## Table 2: CIFAR-10 where it is or can be downloaded, else digits
	$(RUN) -m experiments.table2 --verbosity=-1

# ImageNet: tfds:imagenet_v2 (a download of 1.3 GB), tfds:imagenet2012, or a folder of class folders.
IMAGENET ?= tfds:imagenet_v2
table1: $(VENV)/installed  ## Table 1: IMAGENET=tfds:imagenet2012, or a folder; else ImageNetV2
	$(RUN) -m experiments.table1 --data=$(IMAGENET) --verbosity=-1

swish_sets: $(VENV)/installed  ## what each Swish and sigmoid set does to a trained Swish network
	$(RUN) -m experiments.swish_sets --verbosity=-1

figure1 figure2 figure3 figure4: $(VENV)/installed
	$(RUN) -m experiments.$@
figure5: $(VENV)/installed  ## spikes against gate inputs, and the inputs that occur; IMAGENET as for table1
	$(RUN) -m experiments.figure5 --data=$(IMAGENET) --verbosity=-1
figure6a: $(VENV)/installed  ## accuracy of ResNet50 against the number of steps K
	$(RUN) -m experiments.figure6a --verbosity=-1
figure6b figure6c figure6d: $(VENV)/installed
	$(RUN) -m experiments.figure6 --panel=$(@:figure6%=%)
figure1:  ## an FS-neuron at work: potential, threshold, spikes, output
figure2:  ## Swish by FS-neurons, published and fitted
figure3:  ## the sigmoid by FS-neurons, published and fitted
figure4:  ## ReLU by FS-neurons
figure6b:  ## error of Swish against the number of steps K
figure6c:  ## error of Swish against the bits of T, h and d
figure6d:  ## error of the sigmoid against the bits of T, h and d

efficiency: $(VENV)/installed  ## time and spikes of FS-neurons against rate coding
	$(RUN) -m experiments.efficiency --verbosity=-1

pareto: $(VENV)/installed  ## accuracy against steps and spikes, calibrated and fine-tuned; and the ablation
	$(RUN) -m experiments.pareto --verbosity=-1

finetune: $(VENV)/installed  ## trains ResNet20 further, calibrated at K = 3
	$(RUN) -m experiments.finetune --models=resnet20 --steps=3

benchmark: $(VENV)/installed  ## time of FS-neurons against the activations that they replace
	$(RUN) -m experiments.benchmark

clean:  ## remove what make and the tests made, except the results
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/installed: setup.py
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable ".[test]"
	touch $@

$(VENV)/linters: $(VENV)/installed
	$(RUN) -m pip install --quiet --editable ".[lint]"
	touch $@
