# make demo | test | lint | bench | clean. Everything happens in .venv, made on first use.
#   make test TORCH=torch==2.12.0            another torch
#   make test TORCH_INDEX=https://download.pytorch.org/whl/cpu   where to take torch from (this one: the CPU builds)
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
TRITON ?= triton==3.7.1
TORCH_INDEX ?=
ARGS ?=
JOBS ?= 2
PY = $(VENV)/bin/python
# Processes in place of threads: two that each spin on two cores take three times as long. Tests of threads set their own number.
PYTEST = OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(JOBS) $(ARGS)
PIP = $(PY) -m pip install -q --disable-pip-version-check

# torch first, and pinned (a range would take the newest, with gigabytes of CUDA), then this package: setup.py finds torch's headers
# beside the interpreter.
$(VENV)/deps: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	$(PIP) "$(TRITON)" clang-format==23.1.5 numpy hypothesis matplotlib mypy ninja "pybind11>=2.13" pytest pytest-benchmark pytest-xdist ruff scikit-learn "setuptools>=77" torchmetrics tqdm wheel
	touch $@

$(VENV)/done: $(VENV)/deps setup.py $(shell find csrc -type f)
	$(PIP) --no-build-isolation -e .
	touch $@

setup: $(VENV)/done

demo: $(VENV)/done
	$(PY) -m ordkernels demo $(ARGS)

# The first pass runs on the best instruction set of this machine, the next ones on those below it.
test: $(VENV)/done
	$(PYTEST) tests
	ORDKERNELS_ISA=base $(PYTEST) -m native tests
	if $(PY) -m ordkernels info --json | grep -q '"isa": "avx512"'; then ORDKERNELS_ISA=avx2 $(PYTEST) -m native tests; fi
	TRITON_INTERPRET=1 $(PYTEST) -m triton tests

lint: $(VENV)/done
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/clang-format --dry-run -Werror $$(git ls-files "csrc/*.h" "csrc/*.cpp")
	$(VENV)/bin/mypy

bench: $(VENV)/done
	$(PY) bench/run.py $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info ordkernels/*.so ordkernels/_build_info.py

.PHONY: bench clean demo lint setup test
