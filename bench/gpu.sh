#!/usr/bin/env bash
# bash bench/gpu.sh OUTDIR     everything worth knowing from one GPU machine, in under nine minutes and without a network:
# build in place, info, the tests on the GPU, the sanitizers, every benchmark against eager, torch.compile in CUDA graphs and the
# peers that are installed. Logs and JSON go to OUTDIR. A stage that fails does not stop the next; the exit code says if one did.
set -u -o pipefail
cd "$(dirname "$0")/.."
OUT=${1:?usage: bash bench/gpu.sh OUTDIR}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
PYTHON=${PYTHON:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
LIMIT=${GPU_SH_SECONDS:-530} # for all stages together
FAILED=()

stage() { # stage NAME SECONDS COMMAND...
  local name=$1 seconds=$2 remaining=$((LIMIT - SECONDS)) began=$SECONDS code
  shift 2
  ((seconds > remaining)) && seconds=$remaining
  if ((seconds < 5)); then
    echo "== $name: skipped, no time left"
    FAILED+=("$name (no time left)")
    return
  fi
  timeout --kill-after=5 "$seconds" "$@" >"$OUT/$name.log" 2>&1
  code=$?
  if ((code)); then FAILED+=("$name (exit $code)"); fi
  echo "== $name: exit $code after $((SECONDS - began)) s"
  tail -n "${TAIL:-4}" "$OUT/$name.log" | cut -c-200
}

stage build 90 "$PYTHON" setup.py -q build_ext --inplace
TAIL=12 stage info 30 "$PYTHON" -m ordkernels info
"$PYTHON" -m ordkernels info --json >"$OUT/info.json" 2>/dev/null

PARALLEL=()
"$PYTHON" -c "import xdist" 2>/dev/null && PARALLEL=(-n 6)
TAIL=25 stage tests 150 env ORDKERNELS_TEST_DEVICE=cuda "$PYTHON" -m pytest -q "${PARALLEL[@]}" --junitxml="$OUT/tests.xml" tests

if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    stage "sanitizer_$tool" 60 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 9 \
      "$PYTHON" bench/gpu_smoke.py
  done
else
  echo "== sanitizer: compute-sanitizer is not on the path"
  FAILED+=("sanitizer (not installed)")
fi

TAIL=60 stage bench 190 "$PYTHON" bench/run.py --device cuda --seconds 0.5 --json "$OUT/bench_cuda.json"
TAIL=10 stage scaling 40 "$PYTHON" bench/run.py --device cuda --scaling --seconds 0.3 --json "$OUT/scaling_cuda.json"
[[ -s $OUT/bench_cuda.json ]] && "$PYTHON" bench/table.py "$OUT/bench_cuda.json" >"$OUT/bench_cuda.md"

echo
if ((${#FAILED[@]})); then
  printf 'failed: %s\n' "${FAILED[@]}"
  exit 1
fi
echo "all stages passed in $SECONDS s; results in $OUT"
