#!/bin/bash
# run_gpu.sh: what CI can't run, on a machine with a GPU, nvcc, cuBLAS and PyTorch: the
# build, the tests, the benchmark, the sanitizer. Logs go to $OUT.
#
#   tests/cuda/run_gpu.sh [build] [tests] [sanitizer] [benchmark]    all by default
#
# SHAPES="0.6B 4B 8B" are the benchmark's models.
set -u
cd "$(dirname "$0")/../.."
OUT=${OUT:-/tmp}
export QE_ATTENTION_LIBRARY=$PWD/build/attention.so
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1 QE_TEST_DEVICE=cuda
begin=$(date +%s)
say() { echo "== [$(($(date +%s) - begin)) s] $*"; }

if (($# == 0)); then
    set -- build tests sanitizer benchmark
fi
for part in "$@"; do
    say "$part"
    case $part in
    build)
        # The GPU of this machine alone: the other architectures are CI's.
        QWEN3_EMBED_CUDA=1 QWEN3_EMBED_CUDA_ARCHS=90a python3 setup.py -q build_ext --inplace \
            >"$OUT/build.txt" 2>&1 || { tail -20 "$OUT/build.txt"; exit 1; }
        nvcc -std=c++20 -O3 -gencode arch=compute_90a,code=sm_90a -Icuda -Icsrc -shared \
            -Xcompiler -fPIC -o "$QE_ATTENTION_LIBRARY" tests/cuda/attention_entry.cu \
            cuda/attention/attention.cu cuda/attention/attention_sm90.cu
        python3 -m qwen3_embed info
        ;;
    tests)
        # The one that takes all of the GPU's memory runs alone. Rivals on the CPU, in eight
        # processes, must not each take every core.
        OMP_NUM_THREADS=2 python3 -m pytest -vv -p no:cacheprovider --tb short -n 8 \
            --durations 10 tests/cuda tests/test_engine.py \
            tests/test_api.py tests/test_embedder.py tests/test_threads.py tests/test_pipeline.py \
            tests/test_inputs.py tests/test_quantizer.py tests/test_cli.py tests/test_adapters.py \
            tests/test_reranker.py \
            -k "not memory_taken_by_another_process" >"$OUT/tests.txt" 2>&1
        tail -15 "$OUT/tests.txt"
        python3 -m pytest -q -p no:cacheprovider --tb short tests/cuda/test_killer_inputs.py \
            -k memory_taken_by_another_process
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
