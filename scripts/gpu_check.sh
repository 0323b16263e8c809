#!/usr/bin/env bash
# Checks Lathe on this machine's GPU: every CUDA kernel against the plain C one, bit-identical repeats, cuBLAS,
# compute-sanitizer; and, where the libraries of the whole program are found, models, training and generation against
# the CPU, and training in several processes: two on one GPU through MPI, one on each GPU through NCCL. Needs the CUDA
# toolkit (12.5 or newer) and gcc. Takes at most 8 minutes; the table comes last, and is in build/gpu/check.json too.
#
#   scripts/gpu_check.sh [--only WORD] [--deps DIR] [--build-only | --emulated]
#
#   --only WORD    kernel tests whose file name contains WORD, and no models
#   --deps DIR     libraries of the whole program, as unpacked Debian packages: DIR/usr/include, DIR/usr/lib/...
#   --build-only   compile and link for sm_80, or for LATHE_GPU_CODE ("90a"), and run nothing
#   --emulated     the kernel tests on the emulated GPU of tests/emulator, which needs neither GPU nor toolkit
#
# Exit code: 0 all passed, 1 something failed, 2 usage, 3 no GPU or no compiler: nothing was checked.
# LATHE_GPU_BUILD: another folder than build/gpu.  LATHE_GPU_MINUTES: another limit than 8.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tests/gpu/common.sh
source tests/gpu/common.sh
command_line="scripts/gpu_check.sh $*"

only='' deps='' mode=gpu
while [ $# -gt 0 ]; do
    case $1 in
    --only) only=${2:?--only needs a word}; shift ;;
    --deps) deps=$(cd "${2:?--deps needs a folder}" && pwd); shift ;;
    --build-only) mode=build ;;
    --emulated) mode=emulated ;;
    --help | -h) sed -n '2,16s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "gpu_check: unknown option $1 (see --help)" >&2; exit 2 ;;
    esac
    shift
done

nothing() {
    echo "gpu_check: nothing was checked: $1" >&2
    exit $nothing_done
}

# --- The machine ----------------------------------------------------------------------------------

card="none" capability="" memory=0 driver="" cuda_version=""
case $mode in
gpu)
    find_card || nothing "$why"
    find_nvcc || nothing "no nvcc (the compiler of the CUDA toolkit), neither in PATH nor in /usr/local/cuda"
    ;;
build) find_nvcc || nothing "no nvcc (the compiler of the CUDA toolkit), neither in PATH nor in /usr/local/cuda" ;;
emulated) card="emulated" ;;
esac
if [ $mode = emulated ]; then
    use_emulator
else
    new_enough "$cuda_version" || nothing "$nvcc is of CUDA $cuda_version; 12.5 or newer is needed"
    if [ $mode = gpu ]; then code=$(code_of "$capability"); else code=${LATHE_GPU_CODE:-80}; fi
    use_nvcc
fi
echo "card:    $card${capability:+, sm_$capability, $memory GB, driver for CUDA $driver}"
[ $mode = emulated ] || echo "toolkit: CUDA $cuda_version ($nvcc)"
echo "commit:  $(commit), $(date -u +%F)"

# --- Results: stage, name, result, seconds, detail ------------------------------------------------

results=$build/check.tsv
mkdir -p "$build"
: >"$results"
record() {
    printf '%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" "${5//$'\t'/ }" >>"$results"
    printf '%-9s %-34s %-8s %6s s  %s\n' "$1" "$2" "$3" "$4" "$5"
}

# The line of a log that says most: the first failure, else the last line.
telling_line() {
    grep -m 1 -E 'FAILED|[Ee]rror|^=+ .*(Invalid|hazard|divergent)' "$1" || tail -n 1 "$1" || true
}

# STAGE NAME LOG: what came of the last run.
record_run() {
    case $run_code in
    0) record "$1" "$2" pass "$run_seconds" "$(tail -n 1 "$3")" ;;
    77) record "$1" "$2" skipped "$run_seconds" "$(tail -n 1 "$3")" ;;
    124) record "$1" "$2" FAIL "$run_seconds" "not done in time; $(tail -n 1 "$3")" ;;
    late) record "$1" "$2" skipped 0 "no time left of $minutes minutes" ;;
    *) record "$1" "$2" FAIL "$run_seconds" "$(telling_line "$3")" ;;
    esac
}

# --- The whole program: starts to build at once, in the background --------------------------------

model_why=''
if [ -n "$only" ]; then
    model_why="--only was given"
elif [ $mode = gpu ]; then
    start_model_build gpu_tests
fi
trap stop_model_build EXIT

# --- Building the kernels and their tests ---------------------------------------------------------

# Tests of the emulator itself, or of what only it can show, stay with it.
tests=()
for source in tests/emulator/test_*_emulated.cpp tests/gpu/test_*.cpp; do
    [[ $source == *"$only"* ]] || continue
    if grep -q 'cublas_emulated' "$source"; then continue; fi
    if [ $mode = emulated ]; then
        [[ $source != *cublas* ]] || continue # that one is about the library itself
    elif grep -q 'emulator_' "$source"; then
        continue
    fi
    tests+=("$source")
done

add_kernels
for source in "${tests[@]}"; do
    add_object "$(object_of "$source")" "${test_compile[@]}" "$source"
done
support=()
if [ $mode = emulated ]; then
    for source in tests/emulator/*.cpp; do
        [[ $source == */test_* ]] && continue
        support+=("$(object_of "$source")")
        add_object "${support[-1]}" "${gpu_compile[@]}" "$source"
    done
fi
backend_test=tests/unit/kernels/test_cuda_backend.c
cmocka=(-Itests/gpu/cmocka)
emulated_define=()
[ $mode = emulated ] && emulated_define=(-DLT_EMULATOR)
add_object "$(object_of $backend_test)" "${CC:-gcc}" -std=gnu11 -D_GNU_SOURCE -I. "${cmocka[@]}" "${emulated_define[@]}" -O1 -c \
    $backend_test
echo
echo "building $(wc -l <"$build/commands") objects, $jobs at a time"
start=$SECONDS
compile
if [ -n "$(find "$objects" -name '*.failed' -print -quit)" ]; then
    show_failures
    record build "objects" FAIL $((SECONDS - start)) "$(find "$objects" -name '*.failed' | wc -l) do not compile"
fi

program_of() { basename "${1%.*}"; }
link_program() { # SOURCE
    local program
    program=$objects/$(program_of "$1")
    if [ ! -e "$(object_of "$1")" ]; then return; fi
    add_object "$program" "${link[@]}" "$(object_of "$1")" "${kernel_objects[@]}" "${support[@]}" "${libraries[@]}"
}
for source in "${tests[@]}" $backend_test; do
    link_program "$source"
done
compile
if [ -n "$(find "$objects" -name '*.failed' -print -quit)" ]; then
    show_failures
    record build "programs" FAIL $((SECONDS - start)) "$(find "$objects" -name '*.failed' | wc -l) do not compile or link"
else
    record build "kernels and tests" pass $((SECONDS - start)) "$(find "$objects" -name '*.o' | wc -l) objects, ${#tests[@]} tests"
fi

# --- The kernels ----------------------------------------------------------------------------------

check_kernels() {
    local source name
    echo
    for source in "${tests[@]}" $backend_test; do
        name=$(program_of "$source")
        [ "$source" = $backend_test ] && [ -n "$only" ] && continue
        [ -x "$objects/$name" ] || { record kernels "${name#test_}" FAIL 0 "was not built"; continue; }
        if [ $mode = gpu ]; then
            LATHE_GPU_LARGE=1 run "$name" 150 "$objects/$name"
        else
            run "$name" 400 "$objects/$name"
        fi
        record_run kernels "${name#test_}" "$build/logs/$name"
    done
}

# One case in N: the tools make kernels 10 to 100 times slower. All tools at a time.
sanitize() { # SOURCE TOOL:EVERY...
    local name limit=40 tool every log pair
    name=$(program_of "$1")
    shift
    [ -x "$objects/$name" ] || return 0
    for pair in "$@"; do
        tool=${pair%:*} every=${pair#*:}
        (
            LATHE_TEST_EVERY=$every run "$name.$tool" "$limit" "$sanitizer" --tool "$tool" --error-exitcode 9 "$objects/$name"
            echo "$run_code $run_seconds" >"$build/logs/$name.$tool.code"
        ) &
        running+=($!)
    done
    wait "${running[@]}"
    running=()
    for pair in "$@"; do
        tool=${pair%:*} log=$build/logs/$name.${pair%:*}
        read -r run_code run_seconds <"$log.code"
        # cut off in the middle: what it had found until then is in the log
        if [ "$run_code" = 124 ] && ! grep -qE '^=+ .*(Invalid|hazard|divergent|Error)' "$log"; then
            record "$tool" "${name#test_}" pass "$run_seconds" "cut off after $run_seconds s with no error until then"
        else
            record_run "$tool" "${name#test_}" "$log"
        fi
    done
}

check_sanitizers() {
    local candidate source sanitizer='' running=()
    for candidate in "$(command -v compute-sanitizer || true)" "$cuda_home/bin/compute-sanitizer" \
        "$cuda_home/compute-sanitizer/compute-sanitizer"; do
        if [ -n "$candidate" ] && [ -x "$candidate" ]; then sanitizer=$candidate; fi
    done
    echo
    if [ -z "$sanitizer" ]; then
        record sanitizer "memcheck, racecheck, synccheck" skipped 0 "compute-sanitizer is not installed"
        return
    fi
    for source in "${tests[@]}"; do
        [[ $source != *cublas* ]] || continue # kernels that are not ours
        sanitize "$source" memcheck:8 racecheck:20 synccheck:20
    done
}

# --- Models ---------------------------------------------------------------------------------------

check_models() {
    local test start=$SECONDS
    echo
    if [ -n "$model_why" ]; then
        record models "parity, training, generation" skipped 0 "$model_why"
        return
    fi
    if ! finish_model_build; then
        record models "the whole program" "$model_result" $((SECONDS - start)) "$model_why"
        return
    fi
    record models "the whole program" pass $((SECONDS - start)) "built for sm_$code (seconds: waiting for it)"
    for test in $(ctest --test-dir "$model_build" -N -L '^gpu$' | sed -n 's/^ *Test *#[0-9]*: //p'); do
        run "${test//\//_}" 150 ctest --test-dir "$model_build" -R "^$test\$" --verbose
        if [ "$run_code" = 0 ] && grep -q '\*\*\*Skipped' "$build/logs/${test//\//_}"; then
            record models "${test#gpu/}" skipped "$run_seconds" "see $build/logs/${test//\//_}"
        elif [ "$run_code" = 0 ]; then
            # what a machine lacks (a second GPU, mpirun) leaves out a part of a test
            record models "${test#gpu/}" pass "$run_seconds" \
                "$(sed -n 's/^[0-9]*: \(skipped: \)/\1/p' "$build/logs/${test//\//_}" | paste -sd ';')"
        else
            record_run models "${test#gpu/}" "$build/logs/${test//\//_}"
        fi
    done
}

case $mode in
gpu)
    check_kernels
    check_models
    check_sanitizers
    ;;
emulated) check_kernels ;;
build) ;;
esac

# --- The table and the JSON -----------------------------------------------------------------------

report_check "$results" "$build/check.json"
[ "$(count_results "$results" FAIL)" = 0 ]
