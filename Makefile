# One door: everything CI does is one of these verbs, so it runs at home too.
PY := .venv/bin/python
BIN := .venv/bin
N ?= 20
SESSIONS ?= 10000
SECONDS ?= 60
FAULTS ?= kill
ARGS ?=

.DEFAULT_GOAL := help
# Tests start hundreds of processes of ours; compiling every module anew takes each a third more of the processor.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup up test ci test-deps native lint format types layers check layout proto bench bench-micro bench-gate bench-growth bench-idle \
	bench-recovery bench-catch-up bench-memory bench-flushes bench-ceph bench-ceph-pauses bench-shape bench-stages bench-deps sanitize failover-drill return-drill move-drill \
	storm-drill bitflips conformance-iscsi guest sim sim-authority crash-sweep mutants-authority \
	mutants-data fuzz fuzz-living bench-fence bench-authority clean distclean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*##\( *\)\(.*\)/\1|\3/p' $(MAKEFILE_LIST) | while IFS='|' read -r verb text; do \
		printf '  make %-18s %s\n' "$$verb" "$$text"; done

setup:  ## everything needed to work on sparrow: system packages, .venv, build
	@tools/bootstrap.sh dev

up:  ## start a cluster on this machine; Ctrl-C stops it, the data stays
	@tools/bootstrap.sh run
	@exec $(BIN)/sparrow up $(ARGS)

test: setup  ## every test this machine can run (ARGS="-k name" for some)
	@tools/test_deps.sh try
	@$(PY) -m pytest $(ARGS)

ci: setup test-deps  ## all that CI does, what needs the processor beside what waits; no test may be skipped
	@$(PY) -m tools.ci

test-deps:  ## programs that interop tests talk to
	@tools/test_deps.sh must

native:  ## rebuild the changed modules of the native core, in place
	@mkdir -p build && flock build/.lock $(PY) setup.py -q build_ext --inplace

lint: setup  ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format:  ## ruff: put the format right
	@$(BIN)/ruff check --fix-only -q .
	@$(BIN)/ruff format .

types: setup  ## mypy --strict
	@$(BIN)/mypy

layers: setup  ## who may import whom
	@NO_COLOR=1 $(BIN)/lint-imports --no-logo

check: setup  ## fail when a generated file is stale
	@$(PY) tools/gen_layout.py --check
	@$(PY) tools/gen_proto.py --check

layout:  ## write layout.h, layout.pxd and docs/formats from sparrow.formats
	@$(PY) tools/gen_layout.py

proto:  ## write src/sparrow/rpc/gen from the .proto files
	@$(PY) tools/gen_proto.py

bench: setup bench-deps  ## one table: raw disk, an NBD server in memory, tgt, nbdkit, qemu and sparrow
	@$(PY) -m bench.table $(ARGS)

.PHONY: bench-ceph bench-ceph-pauses bench-shape bench-stages
bench-ceph: setup  ## durable writes to three replicas: Ceph RBD beside sparrow and the raw disk; one line
	@tools/test_deps.sh ceph
	@$(PY) -m bench.ceph $(ARGS)

bench-ceph-pauses: setup  ## how long a client of Ceph RBD waits when an OSD is killed or stopped; one line
	@tools/test_deps.sh ceph
	@$(PY) -m bench.ceph_pauses $(ARGS)

bench-shape: setup bench-deps  ## cost by depth, block size and sessions, and bytes that reach the disk; one line
	@$(PY) -m bench.shape $(ARGS)

bench-stages: setup bench-deps  ## where the microseconds of one durable write go, one replica and three; needs root
	@$(PY) -m bench.stages $(ARGS)

bench-micro: setup  ## the native core's parts one by one
	@$(PY) -m pytest --benchmark-only bench $(ARGS)

bench-gate: setup test-deps  ## instructions the core's parts take; fails when one takes a tenth more than was kept
	@$(PY) -m bench.gate $(ARGS)

bench-idle: setup  ## what a node costs with 200 volumes and 64 sessions that nobody asks for anything, and its start; one line
	@$(PY) -m bench.idle $(ARGS)

bench-growth: setup bench-deps  ## one load over 1 to 200 volumes, idle volumes, a start with all of them; one line
	@$(PY) -m bench.growth $(ARGS)

bench-fence: setup  ## how late the native fence timer closes a gate, idle and loaded
	@$(PY) -m bench.fence $(ARGS)

bench-authority: setup  ## one master with 1,000 nodes and 100,000 volumes: heartbeats, failovers, memory
	@$(PY) -m bench.authority $(ARGS)

bench-recovery: setup bench-deps  ## how fast the log of a killed node is read again; one line
	@$(PY) -m bench.recovery $(ARGS)

bench-catch-up: setup  ## how fast a replica that was away comes back from the log, against disk and loopback; where its time goes
	@$(PY) -m tests.native.catch_up_drill $(ARGS)

bench-memory: setup bench-deps  ## memory per volume and session, and over ten million reads and writes; one line
	@$(PY) -m bench.memory $(ARGS)

bench-flushes: setup  ## durable writes to many logs at once, flushing singly or together
	@$(PY) -m bench.flushes $(ARGS)

bench-deps:
	@tools/test_deps.sh bench

sanitize: setup  ## tests of the native core under ASan, UBSan and LeakSanitizer, in build/sanitize
	@$(PY) -m tools.sanitize $(ARGS)

conformance-iscsi: setup test-deps  ## libiscsi's whole conformance suite against a volume with three replicas
	@$(PY) -m tests.interop.conformance $(ARGS)

bitflips: setup  ## flip N bits in the files of three replicas; no wrong byte may be read, one scrub repairs all
	@$(PY) -m tests.e2e.bitflips --count $(N) $(ARGS)

return-drill: setup  ## replicas that were away, wiped, killed while they are copied: what it costs, one line
	@$(PY) -m tests.e2e.return_drill $(ARGS)

failover-drill: setup  ## strike the primary N times under load (FAULTS=all), print pauses and one line
	@tools/test_deps.sh try
	@$(PY) -m tests.e2e.failover_drill --count $(N) --faults $(FAULTS) $(ARGS)

move-drill: setup  ## move a primary N times under load, print the pause that clients see
	@tools/test_deps.sh try
	@$(PY) -m tests.e2e.move_drill --count $(N) $(ARGS)

storm-drill: setup  ## strike nodes of a cluster with 200 volumes: all are to be whole again, no replica set aside
	@$(PY) -m tests.e2e.storm_drill $(ARGS)

mutants-authority: setup  ## plant one-line faults in copies of the tree; tests must notice each
	@$(PY) -m tools.mutants authority $(ARGS)

mutants-data: setup  ## the same for the native data path and the node: each fault is built
	@$(PY) -m tools.mutants data $(ARGS)

sim: setup  ## whole clusters on the compiled core from fresh seeds: virtual disks, links, clocks and their faults, SECONDS=60
	@$(BIN)/sparrow sim --core native --seconds $(SECONDS) $(ARGS)

fuzz: setup  ## feed mutated conversations to every parser of a stranger's bytes for SECONDS=60
	@$(PY) -m tests.fuzz --seconds $(SECONDS) $(ARGS)

fuzz-living: setup  ## SESSIONS=10000 mutated sessions against a node that serves another client meanwhile
	@$(PY) -m tests.fuzz.living --sessions $(SESSIONS) $(ARGS)

crash-sweep: setup  ## strike every file operation of three workloads in five ways, on one replica and on three (Ctrl-C says where to go on)
	@$(PY) -m sparrow.sim.compiled.sweep $(ARGS)

sim-authority: setup  ## the same on the model data plane, faster per fault: no disk, no log of bytes
	@$(BIN)/sparrow sim --seconds $(SECONDS) $(ARGS)

clean:  ## remove what the build made; .venv stays
	@rm -rf build dist src/*.egg-info
	@find src -name '*.so' -delete

distclean: clean  ## the same and .venv
	@rm -rf .venv

.PHONY: guest
guest: setup  ## a Linux guest in QEMU uses volumes through the kernel's own initiators (ARGS="-k iscsi")
	@tools/test_deps.sh guest
	@$(PY) -m pytest -p no:cacheprovider -o python_files='scenario_*.py' tests/interop/guest -s $(ARGS)
