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

.PHONY: help reproduce test test_all test_jax test_torch test_portable test_oldest_keras fuzz lint docs report table1 table2 figure1 figure2 figure3 figure4 figure5 \
	figure6a figure6b figure6c figure6d swish_sets efficientnet without_data efficiency pareto finetune benchmark chip figure_bits recurrent clean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9_]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

reproduce: table2  ## install, then Table 2 and its plot from the shipped weights (a few minutes)

# Two processes; each keeps to one thread, see tests/conftest.py.
PYTEST := $(RUN) -m pytest -n 2 --dist worksteal
test: $(VENV)/installed  ## install, then all tests
	$(PYTEST) tests

# The long tests too: all, or part K of N in a rotation with LONG=K/N.
LONG ?= all
test_all: $(VENV)/installed  ## the long tests as well: whole families of networks, B7, all shipped networks
	$(PYTEST) --long=$(LONG) tests

# What does not need TensorFlow, on the other backends. JAX compiles every operation for every shape, so that
# all of conversion would take as long as the rest together, and the largest networks of the rest minutes.
CORE := neuron layers calibration analysis simulation training
MORE_jax := conversion/test_recurrent_networks.py
LESS_jax := -k "not trained_networks and not stack and not convolutional and not folded"
MORE_torch := network conversion
test_jax test_torch: test_%: $(VENV)/installed
	$(RUN) -m pip install --quiet --editable ".[$*]" $(TORCH)
	KERAS_BACKEND=$* $(PYTEST) $(LESS_$*) $(CORE:%=tests/%) $(MORE_$*:%=tests/%)
test_jax:  ## the tests of the core rooms on JAX
test_torch:  ## the tests of the core rooms on PyTorch; TORCH=torch==2.13.0 for that version

# Settings under which other processors compute: each alone, then all of them.
PORTABLE := NUMBA_CPU_NAME=generic TF_ENABLE_ONEDNN_OPTS=0 OPENBLAS_CORETYPE=Prescott \
	XLA_FLAGS=--xla_cpu_max_isa=AVX2 OMP_NUM_THREADS=1
test_portable: $(VENV)/installed  ## all tests under the settings of other processors, one by one and together
	for setting in $(PORTABLE) "$(PORTABLE)"; do \
		echo "$$setting"; env $$setting $(PYTEST) tests || exit 1; done

EXAMPLES ?= 2000
fuzz: $(VENV)/installed  ## random networks; EXAMPLES=2000 of them for each property
	FUZZ_EXAMPLES=$(EXAMPLES) $(PYTEST) --long=all tests/fuzz

# The oldest Keras that setup.py allows, in a folder that comes before the installed one.
OLDEST_KERAS := $(shell sed -n 's/.*"keras>=\(.*\)",/\1/p' setup.py)
test_oldest_keras: $(VENV)/installed  ## what touches Keras' internals, on the oldest Keras allowed
	$(RUN) -m pip install --quiet --no-deps --upgrade --target $(VENV)/keras_$(OLDEST_KERAS) keras==$(OLDEST_KERAS)
	PYTHONPATH=$(VENV)/keras_$(OLDEST_KERAS) $(PYTEST) tests/network tests/conversion

lint: $(VENV)/linters  ## style, arrows between the rooms, types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports
	$(RUN) -m mypy fs_neurons

# The pages as they lie in the repository, with what they link to.
PAGES := README.md CONTRIBUTING.md CHANGELOG.md LICENSE CITATION.cff docs examples notebooks results
docs: $(VENV)/documenting  ## the documentation as a site, build/site/index.html
	rm -rf build/docs
	mkdir -p build/docs
	cp -r $(PAGES) build/docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet

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

MODEL_AND_DATA ?=
efficientnet: $(VENV)/installed  ## a real EfficientNet-B0; MODEL_AND_DATA="--model=FILE --data=FOLDER" for another
	$(RUN) -m experiments.efficientnet --verbosity=-1 $(MODEL_AND_DATA)

figure1 figure2 figure3 figure4 schematic: $(VENV)/installed
	$(RUN) -m experiments.$@
figure5: $(VENV)/installed  ## spikes against gate inputs, and the inputs that occur; IMAGENET as for table1
	$(RUN) -m experiments.figure5 --data=$(IMAGENET) --verbosity=-1
figure6a: $(VENV)/installed  ## accuracy of ResNet50 against the number of steps K
	$(RUN) -m experiments.figure6a --verbosity=-1
figure6b figure6c figure6d: $(VENV)/installed
	$(RUN) -m experiments.figure6 --panel=$(@:figure6%=%)
schematic:  ## an artificial neuron and the FS-neuron that takes its place
figure1:  ## an FS-neuron at work: potential, threshold, spikes, output
figure2:  ## Swish by FS-neurons, published and fitted
figure3:  ## the sigmoid by FS-neurons, published and fitted
figure4:  ## ReLU by FS-neurons
figure6b:  ## error of Swish against the number of steps K
figure6c:  ## error of Swish against the bits of T, h and d
figure6d:  ## error of the sigmoid against the bits of T, h and d

without_data: $(VENV)/installed  ## accuracy and spikes of networks converted without data, for several K
	$(RUN) -m experiments.without_data --verbosity=-1

efficiency: $(VENV)/installed  ## time and spikes of FS-neurons against rate coding
	$(RUN) -m experiments.efficiency --verbosity=-1

pareto: $(VENV)/installed  ## accuracy against steps and spikes, calibrated and fine-tuned; and the ablation
	$(RUN) -m experiments.pareto --verbosity=-1

chip: $(VENV)/installed  ## inputs as spikes, integers and a file for chips: accuracy, and what it costs
	$(RUN) -m experiments.chip --verbosity=-1

figure_bits: $(VENV)/installed  ## accuracy of networks in integers against bits of weights and parameters
	$(RUN) -m experiments.figure_bits --verbosity=-1

finetune: $(VENV)/installed  ## trains ResNet20 further, calibrated at K = 3
	$(RUN) -m experiments.finetune --models=resnet20 --steps=3

recurrent: $(VENV)/installed  ## LSTM and GRU on spoken digits, bidirectional on questions, against K
	$(RUN) -m experiments.recurrent --verbosity=-1

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

$(VENV)/documenting: $(VENV)/installed
	$(RUN) -m pip install --quiet --editable ".[docs]"
	touch $@
