#!/bin/bash
# run_gpu.sh: everything that needs a GPU, in one go of at most ten minutes: tests, then
# plans, parity, speed, then the sanitizer. Writes logs to $OUT and prints a digest last.
#
# Expects PYTHONPATH, QE_CUDA_LIBRARY, QE_CUBLAS_FOLDER, QE_ATTENTION_LIBRARY (see
# attention_kernel.py) and GPU_GEMM, the program of benchmarks/gpu_gemm.cu.
set -u
cd "$(dirname "$0")/../.."
OUT=${OUT:-/tmp}
MODELS=$(mktemp -d)
export QE_CACHE=$MODELS/cache PYTHONUNBUFFERED=1 LD_LIBRARY_PATH=$QE_CUBLAS_FOLDER
begin=$(date +%s)
say() { echo "[$(($(date +%s) - begin)) s] $*"; }

nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm --format=csv,noheader
python3 tests/make_model.py "$MODELS/4B" --shape 4B >/dev/null &
make_4B=$!
python3 tests/make_model.py "$MODELS/0.6B" --shape 0.6B >/dev/null &
make_06B=$!

say smoke
timeout 60 python3 tests/cuda/smoke.py 2>&1 | tail -30 | tee "$MODELS/smoke.txt"
if [ "$(grep -c 'alone: True' "$MODELS/smoke.txt")" != 3 ]; then
    say "smoke failed: only the sanitizer and the plans are worth running"
    timeout 60 compute-sanitizer --tool memcheck python3 tests/cuda/smoke.py --short 2>&1 |
        head -60
    timeout 30 "$GPU_GEMM" 1024 3072 28 16 8 128 2>&1 | tee "$OUT/gemm_06B.csv"
    exit 1
fi
say tests
timeout 120 python3 -P -m pytest tests/cuda -q -n 5 -p no:cacheprovider \
    --maxfail 12 --tb short >"$OUT/tests.txt" 2>&1
tail -c 3500 "$OUT/tests.txt"
say plans
timeout 30 "$GPU_GEMM" 1024 3072 28 16 8 128 >"$OUT/gemm_06B.csv"
grep -E '^op|,(16|64|512|16896),' "$OUT/gemm_06B.csv"
wait $make_06B
say 0.6B
timeout 130 python3 benchmarks/gpu.py "$MODELS/0.6B" --parity --profile 2>&1 |
    grep -v Warning >"$OUT/gpu_06B.txt"
wait $make_4B
say 4B
timeout 110 python3 benchmarks/gpu.py "$MODELS/4B" --profile --rounds 2 2>&1 |
    grep -v Warning >"$OUT/gpu_4B.txt"
timeout 30 "$GPU_GEMM" 2560 9728 12 32 8 128 >"$OUT/gemm_4B.csv"
say attention
timeout 40 python3 benchmarks/gpu_attention.py 2>&1 | tee "$OUT/attention.txt"
say sanitizer
# cuBLAS's own kernels (nvjet) hand tiles on in ways that racecheck takes for a race.
for tool in memcheck racecheck synccheck initcheck; do
    timeout 60 compute-sanitizer --tool $tool --kernel-name-exclude kns=nvjet \
        python3 tests/cuda/smoke.py --short >"$MODELS/$tool.txt" 2>&1
    cat "$MODELS/$tool.txt" >>"$OUT/sanitizer.txt"
    tail -n 2 "$MODELS/$tool.txt"
done
say digest
cut -c1-150 "$OUT/gpu_06B.txt"
grep -vE '^  ' "$OUT/gpu_4B.txt"
rm -rf "$MODELS"
