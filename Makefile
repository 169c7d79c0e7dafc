# make help     this list
# make quick    set up, then run the whole pipeline on a little of the real data, in build/quick
# make full     set up, then the committed pipeline on all of CIFAR-10 (dvc repro)
# make test     set up, then check style and types and pass the tests; test-fast: 90 seconds of them
# make test-all    install the tools that make test lacks, then test; also test-cluster and test-web
# make torture  kill, interrupt and starve a tiny pipeline: it must end in the same bytes (6 minutes)
# make example  NAME=resnet20: run the pipeline with examples/resnet20/params.yaml, in build/examples
# make study    NAME=sweep (or seeds, tiny, precision): run the experiments of params.yaml's studies;
#               NAME=pareto: search for the best accuracy at every cost
#               CLUSTER=auto: on the Ray cluster that runs here (stages/tools/README.md)
# make compare  BASE=main (HEAD=another): time two revisions side by side; HEAD: the working tree
# make report   BASE=main: write build/report.md, what this working tree changes since it left main
# make profile  NAME=epyc: measure this machine for pruning to milliseconds (deploy/profiles)
# make baseline time the study's tiny model beside MLPerf Tiny's ResNet-8 (after the study tiny)
# make throughput  measure what each choice of the training loop brings
# make family   train, quantize and time the five models of stages/family (a DVC pipeline: cached)
# make pick     BYTES=350000 (or MS=0.6 RUNTIME=opencv): name the best model of the family within it
# make web      write build/web, a page that classifies pictures in a browser (deploy/README.md)
#               MODELS="a.onnx b.onnx": with these in place of models/*.onnx
# make controls train what else pruning's budget buys, and compare (a DVC stage: cached)
# make sensitivity   measure what INT8 costs in each layer alone (a DVC stage: cached)
# make jetson   write FP16 files and INT8 ones that TensorRT takes, and compare (DVC stages: cached)
# make runtimes time the models in OpenVINO, LiteRT and ncnn beside the others (a DVC stage: cached)
# make mcu      run the INT8 networks as a microcontroller does; C++ for a board (DVC stages: cached)
# make bundle   MODEL=pruned_int8 FOR=pi (or mcu, web): all that a place needs; make card: its figures
# make hardware estimate energy, FPGA and ASIC; all hardware on one page (DVC stages: cached)
# make hooks    check style at every commit, keep models in step with git checkout (pre-commit)
# make readme publish   put the committed tables into the pages, the models into .dvc/remote

# The person's own python3 where it will do, else the newest that will. Each is tried: pyenv puts
# commands on PATH that only fail.
SUPPORTED = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	"$$name" -c '$(SUPPORTED)' 2>/dev/null && echo "$$name" && break; done)
export PATH := $(CURDIR)/.venv/bin:$(PATH)

# A narrower network, few images, few epochs: a minute or two of training on two small cores.
QUICK = -S data.train_images=10000 -S train.widths=[[32,32],[64,64],[64,64]] -S train.epochs=3 \
	-S teach.widths=[[32,32],[64,64],[64,64]] -S teach.networks=1 -S teach.epochs=2 -S teach.views=2 \
	-S prune.amount=0.5 -S prune.round_to=16 -S prune.epochs=2 \
	-S quantize.max_accuracy_drop=5 -S benchmark.rounds=15

comma := ,
WORKERS ?= 2

# Another make that does the same here would take the files away from this one.
define only_one
@mkdir -p build; running=$$(cat build/$(1).pid 2>/dev/null); \
	if [ -n "$$running" ] && [ "$$running" != $$PPID ] && kill -0 "$$running" 2>/dev/null; then \
		echo "error: make $(1) is running here already (process $$running): wait for it, or end it" \
			"with Ctrl-C; if it is not, delete build/$(1).pid" >&2; exit 1; \
	fi; echo $$PPID > build/$(1).pid
endef

# $(call needs,NAME,sweep): refuse to run without the variable.
needs = @test -n "$($(1))" || { echo "error: $(1) is missing, e.g. make $@ $(1)=$(2)" >&2; exit 2; }

.PHONY: help install style test test-fast test-all test-cluster test-web quick quick-settings full example study baseline compare \
	throughput profile family pick controls sensitivity runtimes mcu jetson card bundle hardware report hooks readme publish \
	torture web
help:
	@sed -n 's/^# make/make/p' Makefile

install: .venv/installed

.venv/installed: requirements.txt
	@"$(PYTHON)" -c '$(SUPPORTED)' 2>/dev/null || { \
		echo "error: $(if $(PYTHON),$(PYTHON) is no Python 3.11$(comma) 3.12 or 3.13,there is no Python 3.11$(comma) 3.12 or 3.13 here);" \
			"install one (apt install python3-venv, brew install python@3.13, uv python install 3.13)," \
			"or say where it is: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	$(call only_one,install)
	@version=$$("$(PYTHON)" -c 'import sys; print("python%d.%d" % sys.version_info[:2])'); \
		test -x .venv/bin/$$version || rm -rf .venv; \
		"$(PYTHON)" -m venv .venv || { rm -rf .venv; echo "error: no virtual environment could be" \
		"made (see above); Debian and Ubuntu want: apt install $$version-venv" >&2; exit 1; }
	@echo "Installing the packages of requirements.txt into .venv: once, some minutes, about 6 GB."
	@python -m pip install --disable-pip-version-check -r requirements.txt || { \
		echo "error: the packages could not be installed (see above); with a network and 8 GB of" \
			"free disk, run the same command again: it goes on" >&2; exit 1; }
	@touch $@

# What is checked before the tests; they run in two processes, torch with one thread in each.
style: install
	ruff check .
	ruff format --check .
	mypy

PYTEST = OMP_NUM_THREADS=1 python -m pytest --numprocesses $(WORKERS) --dist loadgroup

test: style
	$(PYTEST)

test-fast: install
	$(PYTEST) -m "not slow"

# What tests look for besides Python packages, by Debian's names.
TOOLS = iverilog verilator make g++ qflow-tech-osu018 chromium jq unzip
test-all: install
	python -m pip install --quiet --disable-pip-version-check -r requirements-hardware.txt \
		-r requirements-runtimes.txt -r requirements-mcu.txt
	@if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		apt-get update --quiet=2 && apt-get install --quiet=2 --yes --no-install-recommends $(TOOLS); \
	else echo "These are needed besides; on Debian and Ubuntu:" \
		"sudo apt-get install --no-install-recommends $(TOOLS)"; fi
	$(MAKE) test

test-cluster: install
	python -m pip install --quiet --disable-pip-version-check -r requirements-cluster.txt
	$(PYTEST) tests/test_study*.py tests/test_remotes.py

test-web: install
	python -m stages.tools.web.runtime
	$(PYTEST) tests/test_web*.py

torture: install
	OMP_NUM_THREADS=1 python -m tests.torture

quick: install
	$(call only_one,quick)
	@rm -rf build/quick
	@git clone --quiet . build/quick
	@git diff --quiet HEAD || git diff --binary HEAD | git -C build/quick apply --whitespace=nowarn
	@git ls-files --others --exclude-standard stages deploy/profiles | while read -r file; do \
		mkdir -p "build/quick/$$(dirname "$$file")" && cp "$$file" "build/quick/$$file"; done
	@git -C build/quick diff --quiet || echo "With what is changed here and not committed."
	@cd build/quick && dvc cache dir --local ../../.dvc/cache && \
		python -m stages.tools.quick_run --log ../quick.log $(QUICK)

quick-settings:
	@echo '$(QUICK)'

full: install
	dvc repro

example: install
	$(call needs,NAME,resnet20)
	$(call only_one,example)
	@python -m stages.tools.example $(NAME)

# On a cluster: cores and GPUs of one training, and what the hosts share: a DVC remote or cache.
ON_CLUSTER = --cluster $(CLUSTER) --hosts plots/studies/$(NAME)_hosts.csv $(if $(CPUS),--cpus $(CPUS)) \
	$(if $(GPUS),--gpus $(GPUS)) $(if $(CACHE),--cache '$(CACHE)') \
	$(if $(REMOTE),--remote '$(REMOTE)') $(if $(SCRATCH),--scratch '$(SCRATCH)')

study: install
	$(call needs,NAME,sweep)
	python -m stages.tools.study --params params.yaml --name $(NAME) --csv plots/studies/$(NAME).csv \
		--table metrics/studies/$(NAME).md --picture plots/studies/$(NAME).png $(if $(CLUSTER),$(ON_CLUSTER)) \
		$(if $(TRIALS),--trials $(TRIALS))

# The newest experiment of that name: each commit from which the study was run has one.
tiny = $(shell git for-each-ref --sort=-committerdate --count=1 --format='%(objectname)' 'refs/exps/*/*/tiny')

baseline: install
	@test -n "$(tiny)" || { echo "error: there is no tiny model yet; run: make study NAME=tiny" >&2; exit 2; }
	dvc get . models/model_pruned.onnx --rev $(tiny) --out build/baseline/tiny.onnx --force
	dvc get . models/model_pruned_int8.onnx --rev $(tiny) --out build/baseline/tiny_int8.onnx --force
	python -m stages.tools.resnet8_baseline export --onnx build/baseline/resnet8.onnx
	python -m stages.benchmark --params params.yaml --variant resnet8=build/baseline/resnet8.onnx \
		--variant tiny=build/baseline/tiny.onnx --variant tiny_int8=build/baseline/tiny_int8.onnx \
		--metrics metrics/studies/peers.json --latency plots/studies/peers.csv
	python -m stages.tools.resnet8_baseline table --metrics metrics/studies/peers.json --latency plots/studies/peers.csv \
		--table metrics/studies/peers.md

compare: install
	$(call needs,BASE,main)
	python -m stages.tools.compare_revisions $(BASE) $(HEAD) --params params.yaml \
		--json build/compare.json --markdown build/compare.md

throughput: install
	python -m stages.tools.training_throughput --params params.yaml --table metrics/studies/training_speed.md

profile: install
	$(call needs,NAME,epyc)
	python deploy/profile_device.py deploy/profiles/$(NAME).json --device "$(NAME)"
	python -m stages.tools.validate_profile --profile deploy/profiles/$(NAME).json --csv plots/studies/profile.csv \
		--table metrics/studies/profile.md --picture plots/studies/profile.png

# What does not travel with the repository and is unchanged need not be there: the images, checkpoints.
family: install
	dvc repro --pull --allow-missing stages/family/dvc.yaml

pick: install
	@python -m stages.family.pick --frontier metrics/family/frontier.json $(if $(BYTES),--bytes="$(BYTES)") \
		$(if $(MS),--ms="$(MS)") $(if $(RUNTIME),--runtime="$(RUNTIME)")

web: install
	@python -m stages.tools.web --folder build/web $(or $(MODELS),$(sort $(wildcard models/*.onnx)))

controls: install
	dvc repro stages/controls/dvc.yaml

sensitivity: install
	dvc repro stages/sensitivity/dvc.yaml

jetson: install
	dvc repro stages/jetson/dvc.yaml

runtimes: install
	python -m pip install --quiet --disable-pip-version-check -r requirements-runtimes.txt
	dvc repro stages/runtimes/dvc.yaml

mcu: install
	python -m pip install --quiet --disable-pip-version-check -r requirements-mcu.txt || { \
		echo "error: tflite-micro has no wheel for this Python or system: it is for Linux on x86-64," \
			"and the other stages go on without it" >&2; exit 1; }
	dvc repro stages/mcu/dvc.yaml

card: install
	dvc repro stages/card/dvc.yaml

bundle: install
	$(call needs,MODEL,pruned_int8)
	$(call needs,FOR,pi)
	@python -m stages.tools.bundle --params params.yaml --model "$(MODEL)" --place "$(FOR)" \
		--folder build/bundles $(if $(ARCHIVE),--archive)

hardware: install
	python -m pip install --quiet --disable-pip-version-check -r requirements-hardware.txt
	dvc repro --keep-going stages/hardware/dvc.yaml

report: install
	python -m stages.tools.pull_request_report $(or $(BASE),main) --markdown build/report.md

hooks: install
	pre-commit install

readme: install
	python -m stages.tools.readme README.md metrics/README.md stages/family/README.md

publish: install
	python -m stages.tools.publish --remote .dvc/remote
