#!/bin/bash
# run_gpu.sh: the checks that CI can't run, for a machine with a GPU, nvcc, cuBLAS and
# PyTorch. Logs go to $OUT.
#
#   tests/cuda/run_gpu.sh [build] [tests] [bits] [against] [ptx] [sanitizer] [benchmark]
#
# bits: 200 repetitions of the same calls. against: speed and bits in turns with the build
# in $BASE. ptx: tests and bits of a build that holds PTX for compute_80 alone, as a GPU
# of the future runs it. By default: build tests bits ptx sanitizer benchmark.
# SHAPES="0.6B 4B 8B" are the benchmark's models.
set -u
cd "$(dirname "$0")/../.."
OUT=${OUT:-/tmp}
export QE_ATTENTION_LIBRARY=$PWD/build/attention.so QE_PLANS_LIBRARY=$PWD/build/plans.so
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1 QE_TEST_DEVICE=cuda
begin=$(date +%s)
say() { echo "== [$(($(date +%s) - begin)) s] $*"; }

build() { # build ARCHITECTURES: the engine, in place; objects are kept per architecture
    QWEN3_EMBED_CUDA=1 QWEN3_EMBED_CUDA_ARCHS=$1 python3 setup.py -q build_ext --inplace \
        >"$OUT/build_$1.txt" 2>&1 || { tail -20 "$OUT/build_$1.txt"; exit 1; }
}

suite() { # suite NAME: every test that computes on the GPU
    # The one that takes all of the GPU's memory runs alone. Rivals on the CPU, in eight
    # processes, must not each take every core.
    OMP_NUM_THREADS=2 timeout 400 python3 -m pytest -vv -p no:cacheprovider --tb short -n 8 \
        --durations 10 tests/cuda tests/test_engine.py \
        tests/test_api.py tests/test_embedder.py tests/test_threads.py tests/test_pipeline.py \
        tests/test_inputs.py tests/test_quantizer.py tests/test_cli.py tests/test_adapters.py \
        tests/test_reranker.py \
        -k "not memory_taken_by_another_process and not takes_less_memory" \
        >"$OUT/$1.txt" 2>&1
    grep -E "^(FAILED|ERROR)" "$OUT/$1.txt" | head -20
    tail -1 "$OUT/$1.txt"
    python3 -m pytest -q -s -p no:cacheprovider --tb short \
        tests/cuda/test_killer_inputs.py tests/cuda/test_plans.py \
        tests/cuda/test_int8_weights.py tests/cuda/test_split.py \
        -k "memory_taken_by_another_process or takes_less_memory"
}

if (($# == 0)); then
    set -- build tests bits ptx sanitizer benchmark
fi
for part in "$@"; do
    say "$part"
    case $part in
    build)
        build 90a # of this machine alone: the other architectures are CI's
        nvcc -std=c++20 -O3 -gencode arch=compute_90a,code=sm_90a -Icuda -Icsrc -shared \
            -Xcompiler -fPIC -o "$QE_ATTENTION_LIBRARY" tests/cuda/attention_entry.cu \
            cuda/attention/attention.cu cuda/attention/attention_raw.cu \
            cuda/attention/attention_sm90.cu &
        python3 - <<'END'
import subprocess
from csrc.toolkit import find_toolkit
found = find_toolkit()
include = [f"-I{path}" for path in ("cuda", "csrc", *found.include)]
names = ["gemm", "gemm_trial", "plan_cache", "gemm_rows", "gemm_stream", "gemm_stream_int8"]
sources = ["tests/cuda/plans_entry.cu", *(f"cuda/products/{name}.cu" for name in names)]
sources += ["cuda/ops/swiglu.cu", "cuda/ops/int8_weights.cu", "cuda/stream.cu", "cuda/cuda_error.cu", "csrc/error.c"]
flags = ["-std=c++20", "-O3", "-gencode", "arch=compute_90a,code=sm_90a", "-t", "0"]
target = ["-shared", "-Xcompiler", "-fPIC", "-o", "build/plans.so"]
linked = ["-Xlinker", found.cublas, "-Xlinker", f"-rpath={found.cublas.parent}"]
subprocess.run([found.nvcc, *flags, *include, *target, *sources, *linked], check=True)
END
        wait
        python3 -m qwen3_embed info
        ;;
    tests)
        suite tests
        ;;
    bits)
        python3 -m tests.cuda.repeat_bits 200
        ;;
    against)
        python3 -m tests.cuda.against "$BASE"
        ;;
    ptx)
        build 80-virtual
        python3 -m tests.cuda.repeat_bits 200
        suite ptx_tests
        build 90a
        ;;
    sanitizer)
        # synccheck counts barriers in shared memory, of which gemm_stream.cu has many.
        # There one lane arrives for its warp after __syncwarp, which racecheck does not
        # follow: if every lane arrives it finds nothing. It dies of cuBLAS's kernels.
        plans=$(mktemp -d)
        sanitize() {
            XDG_CACHE_HOME=$plans timeout 90 compute-sanitizer --tool "$@" \
                python3 -m tests.cuda.smoke --short >"$OUT/$1.txt" 2>&1
            echo "$1: $(tail -n 1 "$OUT/$1.txt")"
        }
        XDG_CACHE_HOME=$plans python3 -m tests.cuda.smoke --short
        sanitize memcheck
        sanitize synccheck --num-cuda-barriers 65536
        python3 -m tests.cuda.own_plans "$plans"
        sanitize initcheck
        sanitize racecheck --num-cuda-barriers 65536 --kernel-name-exclude kns=gemm_stream
        ;;
    benchmark)
        for shape in ${SHAPES:-0.6B 4B}; do
            python3 -m benchmarks.gpu --shape "$shape" --texts 20000 --csv 2>&1 |
                tee "$OUT/gpu_$shape.txt"
        done
        python3 -m benchmarks.gpu_attention --csv 2>&1 | tee "$OUT/attention.txt"
        cp benchmarks/results/gpu*.csv "$OUT/"
        ;;
    esac
done
say done
