# shellcheck shell=bash disable=SC2034 # what is set here is used there
# Shared by scripts/gpu_check.sh and scripts/gpu_bench.sh: the compiler and the card, building with plain nvcc and gcc,
# running things with a limit of time, and the table and JSON at the end. Sourced from the root of the source tree.

export LC_ALL=C # numbers have points
build=${LATHE_GPU_BUILD:-build/gpu}
jobs=$(nproc)
began=$SECONDS
minutes=${LATHE_GPU_MINUTES:-8}
nothing_done=3 # exit code: no compiler, no GPU

left() { # seconds until everything has to be over
    local seconds=$((minutes * 60 - (SECONDS - began)))
    echo $((seconds > 0 ? seconds : 0))
}

# --- The compiler and the card --------------------------------------------------------------------

find_nvcc() {
    local candidate
    for candidate in "${CUDACXX:-}" "$(command -v nvcc || true)" ${CUDA_HOME:+"$CUDA_HOME/bin/nvcc"} \
        ${CUDA_PATH:+"$CUDA_PATH/bin/nvcc"} /usr/local/cuda/bin/nvcc; do
        if [ -n "$candidate" ] && [ -x "$candidate" ]; then
            nvcc=$candidate
            cuda_version=$("$nvcc" --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p')
            # where nvcc really is: /usr/bin/nvcc may be a link to it
            cuda_home=$(cd "$(dirname "$(readlink -f "$nvcc")")/.." && pwd)
            return 0
        fi
    done
    return 1
}

new_enough() { # VERSION: of CUDA
    [ "$(printf '%s\n12.5\n' "$1" | sort -V | head -n 1)" = 12.5 ]
}

# Sets card, capability, memory (GB), driver; or fails and says why in $why.
find_card() {
    local cc=${CC:-gcc} answer
    command -v "$cc" >/dev/null || { why="no C compiler ($cc)"; return 1; }
    mkdir -p "$build"
    "$cc" -std=gnu11 -D_GNU_SOURCE -I. -O1 tests/gpu/probe.c kernels/cuda/driver.c base/status.c -ldl -o "$build/probe" ||
        { why="the probe does not compile"; return 1; }
    if ! answer=$("$build/probe"); then
        why=$answer
        [ "$(wc -l <<<"$answer")" = 1 ] || why="$(sed -n 2p <<<"$answer") is older than Ampere (sm_80)"
        return 1
    fi
    { read -r capability; read -r card; read -r memory; read -r driver; } <<<"$answer"
}

# What nvcc calls the architecture: sm_90 has instructions under a name of their own.
code_of() { [ "$1" = 90 ] && echo 90a || echo "$1"; }

# --- Building -------------------------------------------------------------------------------------
#
# add_object OUTPUT COMMAND... puts a command on the list, unless its output is newer than the files it names and every
# header; compile runs the list, $jobs at a time.

is_current() { # OUTPUT INPUT...
    local output=$1 input folders=(base kernels)
    [ -e "$output" ] || return 1
    for input in "${@:2}"; do
        if [ -f "$input" ] && [ "$input" -nt "$output" ]; then return 1; fi
        if [[ $input == tests/* ]]; then folders+=(tests); fi
    done
    [ -z "$(find "${folders[@]}" -newer "$output" \( -name '*.h' -o -name '*.cuh' \) -print -quit)" ]
}

add_object() {
    local output=$1
    shift
    if is_current "$output" "$@"; then return; fi
    printf '%q ' "$@" -o "$output" >>"$build/commands"
    printf '>%q 2>&1 || { rm -f %q; touch %q; }\n' "$output.log" "$output" "$output.failed" >>"$build/commands"
}

compile() {
    [ -s "$build/commands" ] || return 0
    tr '\n' '\0' <"$build/commands" | xargs -0 -P "$jobs" -n 1 bash -c
    : >"$build/commands"
}

# Prints what the compilers said where one failed.
show_failures() {
    local failed
    for failed in "$objects"/*.failed; do
        [ -e "$failed" ] || continue
        echo "--- ${failed%.failed}"
        head -n 30 "${failed%.failed}.log"
    done
}

object_of() { # SOURCE [TAG]: path of its object
    local name=${1//\//_}
    echo "$objects/${name%.*}${2:+.$2}.o"
}

# The kernels: the reference, the CPU's, and the GPU's. $1: gpu or emulator. Fills kernel_objects.
add_kernels() {
    local source c=("${CC:-gcc}" -std=gnu11 -D_GNU_SOURCE -I. -O3 -fopenmp -fno-math-errno -ffp-contract=off -c)
    kernel_objects=()
    add_kernel() { # OBJECT COMMAND...
        kernel_objects+=("$1")
        add_object "$@"
    }
    local x86=()
    case $(uname -m) in x86_64 | amd64) x86=(-DLT_HAVE_X86) ;; esac
    for source in base/{status,rng,arena,memory}.c kernels/*.c kernels/ref/*.c kernels/cuda/driver.c; do
        [ "$source" = kernels/no_cuda.c ] && continue
        add_kernel "$(object_of "$source")" "${c[@]}" "${x86[@]}" "$source"
    done
    for source in kernels/ref/*.c; do
        add_kernel "$(object_of "$source" f64)" "${c[@]}" -DLT_REAL_DOUBLE "$source"
    done
    for source in kernels/cpu/*.c; do
        [ ${#x86[@]} = 0 ] && continue
        add_kernel "$(object_of "$source" avx2)" "${c[@]}" "${x86[@]}" -mavx2 -mfma -mf16c "$source"
        add_kernel "$(object_of "$source" avx512)" "${c[@]}" "${x86[@]}" -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 \
            -mfma -mf16c "$source"
    done
    for source in kernels/cuda/*.cu; do
        add_kernel "$(object_of "$source")" "${gpu_compile[@]}" "$source"
    done
}

# How .cu files and tests become objects, and objects programs, for a GPU of $code ("90a").
use_nvcc() {
    local generate=(-gencode "arch=compute_$code,code=sm_$code")
    objects=$build/sm_$code
    gpu_compile=("$nvcc" -std=c++17 -I. -O3 -lineinfo "${generate[@]}" "-DLT_CUDA_CODE=\"sm_$code\"" -c)
    test_compile=("$nvcc" -x cu -std=c++17 -I. -O1 "${generate[@]}" -c)
    link=("$nvcc" "${generate[@]}" -Xcompiler -fopenmp)
    libraries=(-ldl)
    mkdir -p "$objects"
    rm -f "$objects"/*.failed
    : >"$build/commands"
}

# The same for the emulated GPU.
use_emulator() {
    local cxx=${CXX:-g++}
    objects=$build/emulated
    gpu_compile=("$cxx" -x c++ -std=c++17 -DLT_EMULATOR -D_GNU_SOURCE -I. -Itests/emulator -O2 -c)
    test_compile=("${gpu_compile[@]}")
    link=("$cxx" -fopenmp -rdynamic)
    libraries=(-ldl)
    mkdir -p "$objects"
    rm -f "$objects"/*.failed
    : >"$build/commands"
}

# --- The whole program ----------------------------------------------------------------------------
#
# By CMake, in the background, where its libraries are found: installed, or in the folder $deps.

model_build=$build/model
model_pid=''
cmake_options=()

use_deps() {
    local lib
    lib=$deps/usr/lib/$(uname -m)-linux-gnu
    export PATH=$PATH:$deps/usr/bin LD_LIBRARY_PATH=$lib:$lib/hdf5/serial${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export PKG_CONFIG_PATH=$lib/pkgconfig:$deps/usr/share/pkgconfig PKG_CONFIG_SYSROOT_DIR=$deps
    export CMAKE_PREFIX_PATH=$deps/usr
    # Debian keeps HDF5 where CMake finds it by asking a compiler wrapper, which would name the installed place
    cmake_options+=("-DHDF5_ROOT=$deps/usr" "-DHDF5_C_INCLUDE_DIR=$deps/usr/include/hdf5/serial"
        "-DHDF5_hdf5_LIBRARY_RELEASE=$lib/hdf5/serial/libhdf5.so")
    export C_INCLUDE_PATH=$deps/usr/include:$deps/usr/include/hdf5/serial LIBRARY_PATH=$lib:$lib/hdf5/serial
}

# Sets model_why to what is missing, if anything is.
find_libraries() {
    local tool module missing=()
    [ -z "$deps" ] || use_deps
    for tool in cmake pkg-config make; do
        command -v $tool >/dev/null || missing+=("$tool")
    done
    if command -v pkg-config >/dev/null; then
        for module in jansson libpcre2-8 libutf8proc yaml-0.1 libxxhash zlib libzstd cmocka; do
            pkg-config --exists $module || missing+=("$module")
        done
    fi
    [ ${#missing[@]} -eq 0 ] || model_why="not found: ${missing[*]} (--deps DIR names a folder with them)"
}

# start_model_build TARGET...
start_model_build() {
    find_libraries
    mkdir -p "$build/logs"
    [ -z "$model_why" ] || return 0
    rm -f "$build/configured"
    {
        cmake -S . -B "$model_build" -DCMAKE_BUILD_TYPE=Release "-DLATHE_CUDA_ARCHS=$code" -DLATHE_NVCC="$nvcc" \
            "${cmake_options[@]}" && touch "$build/configured" &&
            cmake --build "$model_build" --parallel "$jobs" --target "$@"
    } >"$build/logs/model_build" 2>&1 &
    model_pid=$!
}

# Waits for it. When it fails: model_result and model_why say how.
finish_model_build() {
    local pid=$model_pid log=$build/logs/model_build
    while kill -0 "$pid" 2>/dev/null && [ "$(left)" -gt 5 ]; do sleep 1; done
    if kill -0 "$pid" 2>/dev/null; then
        model_result=skipped model_why="not built in time; see $log"
        return 1
    fi
    model_pid=''
    wait "$pid" && return 0
    model_why=$(grep -m 1 -iE -A 2 'error' "$log" | tr -s '\n ' ' ' || tail -n 1 "$log")
    if [ -e "$build/configured" ]; then model_result=FAIL; else model_result=skipped; fi
    return 1
}

stop_model_build() {
    [ -z "$model_pid" ] || kill "$model_pid" 2>/dev/null || true
}

# --- Running --------------------------------------------------------------------------------------
#
# run NAME LIMIT COMMAND...: output to logs/NAME, errors too, or with apart=.errors to logs/NAME.errors; exit code to
# run_code, duration to run_seconds. Never longer than what is left of the time; with nothing left, run_code is "late".

apart=''
run() {
    local log=$build/logs/$1 limit=$2 start=$EPOCHREALTIME
    shift 2
    mkdir -p "$build/logs"
    [ "$limit" -gt "$(left)" ] && limit=$(left)
    if [ "$limit" -lt 2 ]; then
        run_code=late run_seconds=0
        return
    fi
    run_code=0
    : >"$log"
    : >"$log$apart"
    timeout "$limit" "$@" >>"$log" 2>>"$log$apart" || run_code=$?
    run_seconds=$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
}

source tests/gpu/report.sh
