# Everything a developer does here. Nothing is repeated when nothing has changed; PYTHON=python3.12 chooses another Python.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
RUN_ARGS ?= --backbone bitnet --serializer json
PYTEST_ARGS ?=

# Python keeps what it has compiled, whatever the shell says: the tests start hundreds of it.
export PYTHONDONTWRITEBYTECODE :=

# Of the 19,000 modules that pip would compile, most are never imported; Python compiles the others when they are.
UNCOMPILED := --no-compile

FUZZ_SECONDS ?= 600
TASKS := CartPole-v1 Acrobot-v1 MountainCar-v0 HalfCheetah-v5 Hopper-v5 Walker2d-v5 BabyAI-GoToRedBall-v0 TextWorld-Cooking \
	SmartHome-Light

ENGINE := $(wildcard csrc/*.c csrc/*.h csrc/*.py)

.PHONY: run test engines compiled lint typecheck pytest docs site bench act lib arm board fuzz clean

run: $(VENV)/.installed  # train an agent on the frozen ternary model, and evaluate it
	$(BIN)/bitrl run $(RUN_ARGS)

test:  # everything that must pass; what has one thread, as pip and mypy, works beside something else
	@$(MAKE) --no-print-directory --jobs 2 $(VENV)/.tools compiled
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory --jobs 2 typecheck pytest

engines: $(VENV)/.installed  # the engine as the tests need it, for sanitizers and other CPUs; kept in the user's cache
	$(BIN)/python tests/helpers/c_programs.py

# What every worker of the tests begins with, or each would compile it.
compiled: engines
	@$(BIN)/python -m compileall -q core plugins cli src/bitrl
	@$(BIN)/python -c "import gymnasium, torch"

lint: $(VENV)/.tools
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# The package as it would be installed (the finder of an editable install is invisible to mypy), without the engine.
typecheck: $(VENV)/.tools
	@rm -rf build/typecheck
	$(BIN)/python setup.py --quiet build_py --build-lib build/typecheck
	cd build/typecheck && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache

# Three tests at a time on two cores, for one often waits for a process or a clock; each on one thread. They share what
# takes long to make (fixtures of a module), so a worker takes tests that follow each other, and from another what that
# has not begun when it has none left.
pytest: $(VENV)/.tools
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 3 --dist worksteal $(PYTEST_ARGS)

docs: $(VENV)/.installed  # write the generated pages of docs/
	$(BIN)/python -m bitrl.cli.reference docs

site: $(VENV)/.tools  # build the documentation site into build/site; a warning is an error
	@rm -rf build/typecheck
	$(BIN)/python setup.py --quiet build_py --build-lib build/typecheck
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

bench: $(VENV)/.installed  # print the figures that need no other library; see benchmarks/ for the rest
	$(BIN)/python benchmarks/startup.py
	$(BIN)/bitrl bench --out benchmarks/results/bench-starter.json
	$(BIN)/bitrl bench env $(TASKS) --out benchmarks/results/bench-env.json
	$(BIN)/bitrl bench --model random:bitnet-2b-4t --out benchmarks/results/bench-bitnet-2b-4t.json

# What runs an agent without Python (docs/c.md), also for another CPU: AGENT_CC=aarch64-linux-gnu-gcc make act. No fused
# multiply-add: every instruction set must round alike (csrc/build.py). Of the engine, what nobody calls (learning,
# generating) is left out, and what gains nothing where one short text is read at a time (BITRL_SMALL).
AGENT_CC ?= cc
AGENT_OBJCOPY ?= $(patsubst %gcc,%objcopy,$(filter %-gcc,$(AGENT_CC)))
AGENT_FLAGS := -std=c11 -Os -fno-math-errno -ffp-contract=off -ffunction-sections -fdata-sections -fPIC -fvisibility=hidden \
	-fno-asynchronous-unwind-tables -DBITRL_SMALL -Wall -Wextra -Icsrc -Icsrc/agent
AGENT_SOURCES := $(filter-out $(addprefix csrc/,limits.c kernels_amx.c _engine.c _limits.c),$(wildcard csrc/*.c)) \
	$(filter-out csrc/agent/main.c,$(wildcard csrc/agent/*.c))
AGENT_BUILD := build/act/$(notdir $(AGENT_CC))
AGENT_OBJECTS := $(patsubst csrc/%.c,$(AGENT_BUILD)/%.o,$(AGENT_SOURCES))

act: $(AGENT_BUILD)/bitrl-act  # the program that runs an agent of `bitrl export --c`
	cp $< build/bitrl-act

lib: $(AGENT_BUILD)/libbitrl.so $(AGENT_BUILD)/libbitrl.a  # the same as a library; its header is csrc/agent/bitrl_agent.h
	cp $^ build
	ln -sf libbitrl.so build/libbitrl.so.1

# Small but for what an agent's start and its actions wait for. What CPUs without AVX2 are left with, which is written to be
# unrolled, is kept as small as it can be.
$(addprefix $(AGENT_BUILD)/,agent/sha256.o weights.o kernels_avx2.o kernels_neon.o): AGENT_FLAGS += -O2
$(AGENT_BUILD)/kernels_scalar.o: AGENT_FLAGS += -Dalways_inline=unused

$(AGENT_BUILD)/%.o: csrc/%.c $(wildcard csrc/*.h csrc/agent/*.h)
	@mkdir -p $(@D)
	$(AGENT_CC) $(AGENT_FLAGS) -c $< -o $@

$(AGENT_BUILD)/bitrl-act: $(AGENT_OBJECTS) $(AGENT_BUILD)/agent/main.o
	$(AGENT_CC) -s -Wl,--gc-sections,-z,noseparate-code $^ -lm -lpthread -o $@

$(AGENT_BUILD)/libbitrl.so: $(AGENT_OBJECTS)
	$(AGENT_CC) -shared -s -Wl,--gc-sections,-soname,libbitrl.so.1 $^ -lm -lpthread -o $@

# One object, whose names are its own but for those of the header.
$(AGENT_BUILD)/libbitrl.a: $(AGENT_OBJECTS)
	$(AGENT_CC) -r -nostdlib $^ -o $(@:.a=.o)
	$(or $(AGENT_OBJCOPY),objcopy) --localize-hidden $(@:.a=.o)
	rm -f $@
	ar rcs $@ $(@:.a=.o)

# For boards with 64-bit ARM, which need no compiler then. The wheel says how new a glibc its code asks for. It is stripped:
# nobody debugs the engine on a board.
ARM_CC ?= aarch64-linux-gnu-gcc
ARM_BUILD = CC="$(ARM_CC)" CFLAGS= LDFLAGS= LDSHARED="$(ARM_CC) -shared -s" \
	$(BIN)/python -W ignore setup.py --quiet build --build-base build/arm egg_info --egg-base build/arm

arm: $(VENV)/.installed  # by cross-compilation, for 64-bit ARM: a wheel into dist/, and build/arm/bitrl-act
	@command -v $(ARM_CC) >/dev/null || { echo "Error: $(ARM_CC) is not installed: apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross" >&2; exit 1; }
	@mkdir -p build/arm dist
	@rm -f dist/*_aarch64.whl
	$(ARM_BUILD)
	glibc=$$($(ARM_CC:gcc=objdump) -T build/arm/lib.*/bitrl/*.so | grep -o 'GLIBC_2\.[0-9]*' | cut -d. -f2 | sort -n | tail -1) && \
		$(ARM_BUILD) bdist_wheel --dist-dir dist --plat-name manylinux_2_$${glibc}_aarch64
	@$(MAKE) --no-print-directory build/act/$(notdir $(ARM_CC))/bitrl-act AGENT_CC="$(ARM_CC)"
	cp build/act/$(notdir $(ARM_CC))/bitrl-act build/arm

board: arm  # Debian for ARM as qemu runs it, in the user's cache: with it tests go through docs/board.md there
	$(BIN)/python tests/helpers/emulated_board.py

# The kernels are left out of libFuzzer's bookkeeping: what a file can change is decided before them.
FUZZ_FLAGS := -std=c11 -g -O2 -ffp-contract=off -fno-math-errno -Icsrc -fsanitize=address,undefined,float-cast-overflow \
	-fno-sanitize-recover=all
FUZZ_PLAIN := $(wildcard csrc/kernels_*.c) $(addprefix csrc/,forward.c session.c threads.c)
FUZZ_LOADER := $(filter-out $(FUZZ_PLAIN) $(addprefix csrc/,limits.c _engine.c _limits.c),$(wildcard csrc/*.c))

fuzz: $(VENV)/.tools  # look for files that break the loaders, each for FUZZ_SECONDS; needs clang
	mkdir -p build/fuzz/plain build/fuzz/corpus
	$(BIN)/python tests/helpers/hostile_files.py build/fuzz/named
	cd build/fuzz/plain && clang $(FUZZ_FLAGS) -I../../../csrc -c $(addprefix ../../../,$(FUZZ_PLAIN))
	clang $(FUZZ_FLAGS) -fsanitize=fuzzer $(FUZZ_LOADER) tests/csrc/fuzz_gguf.c build/fuzz/plain/*.o -lm -lpthread -o build/fuzz/fuzz_gguf
	build/fuzz/fuzz_gguf -max_total_time=$(FUZZ_SECONDS) -timeout=1 -max_len=16384 -malloc_limit_mb=64 -rss_limit_mb=1024 \
		-print_final_stats=1 -artifact_prefix=build/fuzz/ build/fuzz/corpus tests/csrc/corpus/gguf build/fuzz/named
	$(BIN)/python tests/csrc/fuzz_metadata.py $(FUZZ_SECONDS)

clean:  # remove everything that was made, runs excepted
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis src/bitrl/_engine.* src/bitrl/_limits.* csrc/_engine.* csrc/_limits.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# With a pip of its own, since that of a Python of some years ago takes twice as long.
$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { echo "Error: $(PYTHON) is not installed: install Python 3.11 or newer, or name it: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Error: $(PYTHON) is older than 3.11: install a newer one and name it: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Error: $(PYTHON) has no venv module: install it (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --upgrade pip
	@touch $@

# src/bitrl/__init__.py holds the version.
$(VENV)/.installed: $(VENV)/.made pyproject.toml setup.py constraints.txt src/bitrl/__init__.py $(ENGINE)
	@echo "Installing bitrl and what it needs into $(VENV); the first time this takes some minutes."
	$(PIP) install $(UNCOMPILED) --constraint constraints.txt --editable .
	@touch $@

# The dev extra by itself: asking pip for bitrl[dev] would build the engine once more.
$(VENV)/.tools: $(VENV)/.installed
	@$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['dev'], sep='\n')" > $(VENV)/dev.txt
	$(PIP) install $(UNCOMPILED) --constraint constraints.txt --requirement $(VENV)/dev.txt
	@touch $@
