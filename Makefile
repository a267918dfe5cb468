# make setup | demo | test | test-fast | serving | wheels | lint | docs | bench | mutants | fuzz | sanitize | soak | clean.
# Everything happens in .venv, created on first use.
#   make test TORCH=torch==2.12.0            another torch
#   make test TORCH_INDEX=https://download.pytorch.org/whl/cpu   where to take torch from (this one: the CPU builds)
#   make test ARGS="-k crps"                 arguments for pytest
#   make soak MINUTES=5                      for how long
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
TRITON ?= triton==3.7.1
TORCH_INDEX ?=
ARGS ?=
JOBS ?= 2
MINUTES ?= 30
PY = $(VENV)/bin/python
# Processes in place of threads: two that each spin on two cores take three times as long. Tests of threads set their own number.
# Bytecode is written even where the environment says not to: each of these processes would compile every test again.
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(JOBS) --dist worksteal $(ARGS)
# A test that hangs fails with its stack, and those behind it run.
LIMITED = $(PYTEST) --timeout 300
PIP = $(PY) -m pip install -q --disable-pip-version-check
# The tools, pinned: the extra "dev" of pyproject.toml.
TOOLS = $(PY) -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['dev'], sep='\n')"

# torch first, and pinned (a range would take the newest, with gigabytes of CUDA), then this package: setup.py finds torch's headers
# beside the interpreter.
$(VENV)/deps: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	$(TOOLS) | xargs $(PIP) "$(TRITON)" numpy
	touch $@

$(VENV)/done: $(VENV)/deps setup.py $(shell find csrc -type f)
	$(PY) setup.py -q build_ext  # shows a line for each file; pip hides what it does, and finds this done
	$(PIP) --no-build-isolation -e .
	touch $@

# The CUDA C++ kernels for the CPU, for tests (csrc/cuda/README.md); nvcc is asked by the tests themselves.
$(VENV)/emulated: $(VENV)/done
	ORDKERNELS_CUDA_EMULATE=1 $(PY) setup.py -q build_ext --inplace
	touch $@

setup: $(VENV)/done

demo: $(VENV)/done
	$(PY) -m ordkernels demo $(ARGS)

# The first pass runs on the best instruction set of this machine, the next ones, on those below it, only what depends on it: not the
# tests of registration. Each of them collects only files that can have tests for it: those that name the mark or the backends.
NATIVE = -m "native and not registration" $$(grep -rliE --include="test_*.py" "native|backends" tests)
test: $(VENV)/done $(VENV)/emulated
	$(LIMITED) --doctest-modules --doctest-ignore-import-errors ordkernels tests
	ORDKERNELS_ISA=base $(LIMITED) $(NATIVE)
	if $(PY) -m ordkernels info --json | grep -q '"isa": "avx512"'; then ORDKERNELS_ISA=avx2 $(LIMITED) $(NATIVE); fi
	ORDKERNELS_CUDA_EMULATE=1 $(LIMITED) -m cuda tests/cuda
	TRITON_INTERPRET=1 $(LIMITED) -m triton $$(grep -rliE --include="test_*.py" "triton|backends" tests)

# Every public function under hostile arguments (tests/fuzz), new ones each time; a failure comes again with the SEED that is printed.
#   make fuzz EXAMPLES=200 ARGS="-k crps"
#   make fuzz SEED=7 SHRINK=0               as found, without the search for the smallest case
EXAMPLES ?= 10000
fuzz: $(VENV)/done
	@seed=$(or $(filter-out 0,$(SEED)),$$(date +%s)); echo "make fuzz SEED=$$seed"; \
		EXAMPLES=$(EXAMPLES) SHRINK=$(SHRINK) $(PYTEST) -p no:cacheprovider -o faulthandler_timeout=600 --hypothesis-seed=$$seed tests/fuzz

# Every model compiled ahead of time and served by the C++ program of examples/serving_cpp; `make test` does so with one.
serving: $(VENV)/done
	$(PYTEST) -m "serving or not serving" tests/test_serving.py

# One wheel for every Python from 3.11, every torch from 2.11 and every Linux from glibc 2.28 on, in dist/.
wheels: $(VENV)/done
	rm -rf build/wheel dist
	$(PY) -m pip wheel -q --disable-pip-version-check --no-build-isolation --no-deps -w build/wheel .
	PATH="$(abspath $(VENV))/bin:$$PATH" $(PY) -m auditwheel repair --plat manylinux_2_28_x86_64 --exclude libtorch_cpu.so --exclude libtorch_cuda.so -w dist build/wheel/*.whl
	$(PY) -m auditwheel show dist/*.whl

# A loop for working on the code: of each test function the first cases, without the slow ones.
test-fast: $(VENV)/done
	$(PYTEST) --fast tests

lint: $(VENV)/done
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/clang-format --dry-run -Werror $$(git ls-files "csrc/*.h" "csrc/*.cpp" "csrc/*.cu" "tests/cuda/*.cu" "tests/cuda/*.h" "examples/*.cpp")
	$(VENV)/bin/mypy

# Standing guard, see RELIABILITY.md. `sanitize` builds the C++ parts twice more, below build/sanitize.
sanitize: $(VENV)/done
	$(PY) tests/guard/sanitize.py $(ARGS)

soak: $(VENV)/done
	$(PY) tests/guard/soak.py --minutes $(MINUTES) $(ARGS)

docs: $(VENV)/done
	$(VENV)/bin/pdoc -d google -o build/docs ordkernels ordkernels.estimators

bench: $(VENV)/done
	$(PY) bench/run.py $(ARGS)

# Mutation testing: small faults, one at a time, and those that no test notices. All of it takes hours; what was killed is remembered.
#   make mutants FILES="crps ordkernels/reference/*"   these files (names, or patterns of paths)
#   make mutants SAMPLE=400 SEED=1                     a random sample
FILES ?=
SAMPLE ?= 0
SEED ?= 0
mutants: $(VENV)/done
	OMP_NUM_THREADS=1 $(PY) tests/mutants/run_mutants.py $(foreach f,$(FILES),"$(f)") --sample $(SAMPLE) --seed $(SEED) --jobs $(JOBS) $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info ordkernels/*.so ordkernels/_build_info.py

.PHONY: bench clean demo docs fuzz lint mutants sanitize serving setup soak test test-fast wheels
