# make demo    from a clean clone to a gallery of stylised pictures, through a real tritonserver; no torch
# make test    the tests            make check   lint, types, docs, and whether a wheel has all it needs
# make lock    renew the locked installs
# make bench   the benchmarks; what they found is in benchmarks/README.md
#
# Everything is made inside this folder: .venv/ and .impasto/. PYTHON=python3.12 picks another interpreter.

PYTHON   ?= python3
VENV     := .venv
BIN      := $(VENV)/bin
STATE    := .impasto
BUNDLE   := $(STATE)/bundle
STYLIZER := $(STATE)/stylizer
MUSE     := $(STATE)/muse
SCORER   := $(STATE)/scorer
REGISTRY := $(STATE)/registry
ADAPTERS := $(patsubst %/,%,$(dir $(wildcard studio/styles/*/*.safetensors studio/objects/*/*.safetensors)))
# The two that reach their styles; -ti (textual inversion) is put behind their names, since adapters have those, too.
EMBEDDINGS := studio/embeddings/stained-glass studio/embeddings/crosshatch
# Of the masked transformer; -drop (StyleDrop) is put behind their names, since there are LoRAs of that name.
DROPS    := $(patsubst %/,%,$(dir $(wildcard studio/drops/*/bottleneck.safetensors studio/drops/*/round1/bottleneck.safetensors)))
# Styles of the stylizer; -art is put behind names that LoRAs have, too. Some hang on the demo's sheet.
VECTORS  := $(basename $(notdir $(wildcard studio/vectors/*.safetensors)))
TWICE    := $(filter $(notdir $(ADAPTERS)),$(VECTORS))
HUNG     := village stained-glass-art wave mosaic-art terrace woodcut
STYLES   := $(notdir $(filter studio/styles/%,$(ADAPTERS)))
# The rows of the demo's sheet of contents in styles, and of each the colour and the place that its pictures show.
COMPOSED := glass neon mosaic stipple
SHOWN    := red/by_the_sea yellow/at_night blue/in_a_meadow purple/at_sunset
said      = $(foreach s,$(SHOWN),--$(1) "a $(subst /, $(2) ,$(subst _, ,$(s)))")

# Workers share the cores: each computes on one. Files go to them in this order, the long ones first.
WORKERS  ?= 2
PYTEST   := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadscope --no-loadscope-reorder \
            --durations 20

# Locked wheels first, then the project without its dependencies and with the locked build backend.
PIP      := $(BIN)/python -m pip install --quiet
LOCKED   := $(PIP) --no-deps --require-hashes --only-binary :all: --requirement
PROJECT  := $(PIP) --no-deps --no-build-isolation --editable .
RESOLVE  := uv pip compile pyproject.toml --group build --universal --python-version 3.11 --upgrade --quiet \
            --generate-hashes --no-emit-index-url --annotation-style line --custom-compile-command 'make lock'

export PATH := $(CURDIR)/$(BIN):$(PATH)
export IMPASTO_REGISTRY := $(CURDIR)/$(REGISTRY)

.DEFAULT_GOAL := help
.PHONY: help demo test test-avx2 check bench bundle lock clean

help:
	@sed -n 's/^# \{0,1\}//; 1,6p' Makefile

demo: bundle
	impasto serve --bundle $(STYLIZER) --port 0 --quiet -- \
	    impasto sheet $(wildcard studio/photos/*.jpg) $(HUNG:%=--style %) --cell 180 --out $(STATE)/photos.jpg
	impasto serve --bundle $(MUSE) --port 0 --quiet -- \
	    impasto compose $(COMPOSED:%=--style %-drop) --content rocket-drop --gamma 0.45 --gamma 0.55 --gamma 0.65 \
	    $(call said,prompt,rocket) $(call said,style-prompt,house) \
	    --steps 18 --style-strength 2 --text-strength 2 --title "a rocket in four styles" --out $(STATE)/composed.png
	impasto serve --bundle $(BUNDLE) --port 0 --quiet -- \
	    impasto gallery $(STYLES:%=--adapter %) --out $(STATE)/gallery.png

test: $(VENV)/dev.stamp
	$(BIN)/coverage erase
	IMPASTO_COVERAGE=1 $(PYTEST) --ignore=tests/shipped
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# Kernels for AVX2 alone as far as libraries can be told: torch and numpy can. ONNX Runtime and OpenVINO ask the CPU.
test-avx2: $(VENV)/dev.stamp
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 OPENBLAS_CORETYPE=Haswell \
	    NPY_DISABLE_CPU_FEATURES="AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL" $(PYTEST) tests/parity

check: $(VENV)/dev.stamp
	ruff check .
	ruff format --check .
	mypy
	mkdocs build --strict --quiet --config-file docs/site/mkdocs.yml
	$(BIN)/python -m pytest --quiet tests/shipped

bench: $(VENV)/dev.stamp bundle
	$(BIN)/python benchmarks/quality.py --json $(STATE)/quality.json
	$(BIN)/python benchmarks/dreamstyler.py --json $(STATE)/dreamstyler.json --sheets $(STATE)
	$(BIN)/python benchmarks/styledrop.py --json $(STATE)/styledrop.json --sheets $(STATE)
	$(BIN)/python benchmarks/masked.py --json $(STATE)/masked.json
	$(BIN)/python benchmarks/mixed.py --json $(STATE)/mixed.json
	$(BIN)/python benchmarks/engines.py --json $(STATE)/engines.json
	$(BIN)/python benchmarks/stylize.py --json $(STATE)/stylize.json
	$(BIN)/python benchmarks/overhead.py --json $(STATE)/overhead.json
	$(BIN)/python benchmarks/load.py --json $(STATE)/load.json --plot $(STATE)/load.png

# What the studio trained, as a server wants it. Both commands keep what is there already.
bundle: $(VENV)/server.stamp
	impasto link studio/mini-stylizer --out $(STYLIZER)
	impasto adapters import studio/vectors --bundle $(STYLIZER)
	@for v in $(TWICE); do \
	    impasto adapters import studio/vectors/$$v.safetensors --name $$v-art --bundle $(STYLIZER) || exit 1; \
	done
	impasto link studio/mini-diffusion --out $(BUNDLE) \
	    --controlnet studio/mini-controlnet --control edges,edges,depth --control-optional depth
	@for a in $(ADAPTERS); do impasto adapters import $$a --name $$(basename $$a) --bundle $(BUNDLE) || exit 1; done
	@for e in $(EMBEDDINGS); do impasto adapters import $$e --name $$(basename $$e)-ti --bundle $(BUNDLE) || exit 1; done
	impasto link studio/mini-muse --out $(MUSE)
	impasto link studio/mini-clip --out $(SCORER)
	@for d in $(DROPS); do impasto adapters import $$d --name $$(basename $${d%/round1})-drop --bundle $(MUSE) || exit 1; done

# The newest of everything that pyproject.toml allows; CONTRIBUTING.md says when.
lock: | $(VENV)/bin/python
	$(PIP) uv==0.13.9
	$(RESOLVE) --extra server --extra gateway --extra store --output-file requirements/server.txt
	$(RESOLVE) --extra server --extra gateway --extra otel --extra c2pa --extra video --extra store --extra ray --extra export --extra fit --extra dev --excludes requirements/test.exclude \
	    --no-emit-package torch --output-file requirements/test.txt
	$(RESOLVE) --extra server --extra gpu --excludes requirements/gpu.exclude --output-file requirements/gpu.txt

clean:
	rm -rf $(VENV) $(STATE)

$(VENV)/server.stamp: pyproject.toml requirements/server.txt | $(VENV)/bin/python
	$(LOCKED) requirements/server.txt
	$(PROJECT)
	touch $@

# torch has no hash: its builds for CPUs and for CUDA are one version. What it needs beside CUDA is locked.
$(VENV)/dev.stamp: pyproject.toml requirements/test.txt | $(VENV)/bin/python
	$(LOCKED) requirements/test.txt
	$(PIP) torch==2.13.0
	$(PROJECT)
	touch $(VENV)/server.stamp $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
