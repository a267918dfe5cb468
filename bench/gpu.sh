#!/usr/bin/env bash
# What is worth knowing from a GPU machine, in two short calls, without a network:
#   bash bench/gpu.sh one OUTDIR     150 s: are the kernels right? Every kernel's small cases, the tests on the GPU, memcheck.
#   bash bench/gpu.sh two OUTDIR     300 s: are they fast? Every case against eager torch, launch cost, CUDA graphs, then torch.compile.
# Nothing is built: `_cuda.so`, `_C` and `_host` are used if they are there. A stage that fails or runs out of time does not stop the
# next, and leaves what it had; the exit code says if one did. OUTDIR gets few files: results line by line, and logs.tar.gz.
# GPU_SH_DRY_RUN=1 runs a few tiny cases without a GPU: in Triton's interpreter, and timed on a fake one (bench/_fake_gpu.py).
set -u -o pipefail
cd "$(dirname "$0")/.."
CALL=${1:-}
OUT=${2:-}
[[ $CALL == one || $CALL == two ]] && [[ -n $OUT ]] || {
  echo "usage: bash bench/gpu.sh one|two OUTDIR" >&2
  exit 2
}
mkdir -p "$OUT" && OUT=$(cd "$OUT" && pwd) || exit 2
LOGS=$(mktemp -d)
PYTHON=${PYTHON:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 OMP_NUM_THREADS=2
FAILED=()

GROUPS_IN_ORDER=( # what is promised first comes first; each is a process, so that one that crashes leaves the others
  "planar_flow planar_flow_inverse conditional_planar_flow"
  "encode_increments nested_min"
  "guided_posterior_step"
  "q_sample reverse_step"
  "rng"
  "denoise_chain fusion_chain"
  "value_decode"
  "crps wasserstein_quantile_loss interval_score pinball embedding_mixup windowed_value mlp sequence_layer"
)
SMOKE=(--device cuda --processes 12)
MEMCHECK=(compute-sanitizer --tool memcheck --error-exitcode 9 "$PYTHON" bench/gpu_smoke.py --device cuda
  planar_flow nested_min denoise_chain fusion_chain value_decode crps)
TESTS=(tests)
WORKERS=8
SMI=nvidia-smi
if [[ ${GPU_SH_DRY_RUN:-} == 1 ]]; then
  export ORDKERNELS_FAKE_GPU=1 TRITON_INTERPRET=1
  GROUPS_IN_ORDER=("encode_increments")
  SMOKE=(--device cpu --processes 2 encode_increments)
  MEMCHECK=("$PYTHON" bench/gpu_smoke.py --device cpu q_sample)
  TESTS=(tests/test_rng.py --fast)
  WORKERS=0
  SMI=echo
else
  export ORDKERNELS_TEST_DEVICE=cuda
fi
if [[ $CALL == one ]]; then LIMIT=150; else LIMIT=300; fi # seconds, for all stages together

pack() { tar -czf "$OUT/.logs" -C "$LOGS" . && mv "$OUT/.logs" "$OUT/logs.tar.gz"; }

finish() {
  [[ -n ${CLOCKS:-} ]] && kill "$CLOCKS" 2>/dev/null
  pack
  rm -rf "$LOGS"
}
trap finish EXIT
trap 'exit 1' INT TERM

stage() { # stage NAME SECONDS COMMAND...: stopped by an interrupt, so that pytest and others write what they have
  local name=$1 seconds=$2 remaining=$((LIMIT - SECONDS)) began=$SECONDS code
  shift 2
  ((seconds > remaining)) && seconds=$remaining
  if ((seconds < 5)); then
    echo "== $name: skipped, no time left"
    FAILED+=("$name (no time left)")
    return
  fi
  env --default-signal=INT timeout --foreground --signal=INT --kill-after="${GRACE:-8}" "$seconds" "$@" >"$LOGS/$name.log" 2>&1
  code=$?
  if ((code)); then FAILED+=("$name (exit $code$( ((code == 124 || code == 137)) && echo ", out of time"))"); fi
  echo "== $name: exit $code after $((SECONDS - began)) s"
  tail -n "${TAIL:-4}" "$LOGS/$name.log" | cut -c-200
  pack
}

record_clocks() { # twice a second, with the time of day: a slow case and a throttled clock can be laid side by side
  local fields=timestamp,clocks.sm,clocks.mem,temperature.gpu,power.draw,clocks_event_reasons.active,utilization.gpu
  "$SMI" --query-gpu=$fields --format=csv,noheader -lms 500 >"$LOGS/clocks.csv" 2>&1 &
  CLOCKS=$!
}

right() {
  TAIL=14 stage info 20 "$PYTHON" -m ordkernels info
  # Twelve processes compile at once, so that what comes later finds the kernels compiled.
  TAIL=3 stage smoke 60 "$PYTHON" bench/gpu_smoke.py "${SMOKE[@]}" --json "$OUT/smoke.jsonl"
  local workers=()
  "$PYTHON" -c "import xdist" 2>/dev/null && ((WORKERS)) && workers=(-n "$WORKERS")
  # pytest-xdist waits up to ten seconds for its workers before it writes the summary.
  GRACE=20 TAIL=25 stage tests 40 "$PYTHON" -m pytest -q -rfE -p no:cacheprovider -m "(triton or cuda) and not aot and not slow" "${workers[@]}" \
    --junitxml="$OUT/tests.xml" "${TESTS[@]}"
  TAIL=6 stage memcheck 45 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "${MEMCHECK[@]}" --json "$OUT/memcheck.jsonl"
}

fast() {
  local group name
  TAIL=3 stage warm 50 "$PYTHON" bench/gpu_smoke.py "${SMOKE[@]}" --size quick --json "$OUT/smoke.jsonl"
  for group in "${GROUPS_IN_ORDER[@]}"; do
    name=${group%% *}
    # shellcheck disable=SC2086  # several ops
    TAIL=40 stage "bench_$name" 40 "$PYTHON" bench/run.py $group --device cuda --seconds 0.15 --compiled no \
      --json "$LOGS/bench_$name.json" --lines "$OUT/bench.jsonl"
  done
  for name in ${GROUPS_IN_ORDER[*]}; do
    TAIL=12 stage "compiled_$name" 45 "$PYTHON" bench/run.py "$name" --device cuda --seconds 0.15 --compiled only \
      --json "$LOGS/compiled_$name.json" --lines "$OUT/compiled.jsonl"
  done
}

"$SMI" >"$LOGS/nvidia-smi.log" 2>&1 || FAILED+=("nvidia-smi")
record_clocks
if [[ $CALL == one ]]; then right; else fast; fi

echo
if ((${#FAILED[@]})); then
  printf 'failed: %s\n' "${FAILED[@]}" | tee "$LOGS/failed.txt"
  exit 1
fi
echo "all stages passed in $SECONDS s; results in $OUT"
