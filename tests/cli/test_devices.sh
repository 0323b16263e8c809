#!/usr/bin/env bash
# lathe devices, and the refusals of --device cuda, on machines of all kinds: a driver library made here stands in for
# NVIDIA's, and answers as the test wants.
source "$(dirname "$0")/common.sh"

# --- A driver library ----------------------------------------------------------------------------
cat >driver.c <<'C'
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static int number(const char *name, int otherwise)
{
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}
int cuInit(unsigned flags) { (void)flags; return number("FAKE_INIT", 0); }
int cuDriverGetVersion(int *version) { *version = number("FAKE_DRIVER", 13000); return 0; }
int cuDeviceGetCount(int *count) { *count = number("FAKE_COUNT", 1); return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int size, int device)
{
    snprintf(name, (size_t)size, "NVIDIA Test %c", 'A' + device);
    return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; *bytes = 80000000000u; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    int capability = number(device ? "FAKE_SECOND" : "FAKE_CAPABILITY", 90);
    *value = attribute == 75 ? capability / 10 : capability % 10;
    return number("FAKE_ATTRIBUTE", 0);
}
int cuGetErrorName(int error, const char **name) { (void)error; *name = "CUDA_ERROR_TEST"; return 0; }
#ifndef OLD
int cuGetErrorString(int error, const char **text) { (void)error; *text = "as the test wants"; return 0; }
#endif
C
mkdir fake old none
cc=${CC:-cc}
command -v "$cc" >/dev/null || { echo "no C compiler: skipped"; exit 77; }
"$cc" -shared -fPIC -o fake/libcuda.so.1 driver.c || exit 1
"$cc" -DOLD -shared -fPIC -o old/libcuda.so.1 driver.c || exit 1

# devices NAME "SETTING..." PATTERN...: each pattern has to be in the output
devices() {
    local name=$1 settings=$2 pattern
    shift 2
    # shellcheck disable=SC2086
    if ! env -u CUDA_VISIBLE_DEVICES LD_LIBRARY_PATH="$PWD/fake" $settings "$lathe" devices >out.txt 2>err.txt; then
        fail "$name: $(cat err.txt)"
    fi
    for pattern in "$@"; do
        grep -qE -- "$pattern" out.txt || fail "$name: no '$pattern' in: $(cat out.txt)"
    done
}

# --- Here, whatever is here ----------------------------------------------------------------------
"$lathe" devices >here.txt || fail "devices"
for word in '^devices' '  cpu +cpu-' '  build' '  driver' '  cublas' '  nccl' '^--device auto chooses'; do
    grep -qE -- "$word" here.txt || fail "devices: no '$word' in: $(cat here.txt)"
done
"$lathe" devices extra >/dev/null 2>err.txt && fail "an argument too many is accepted"
"$lathe" devices --help | grep "device auto" >/dev/null || fail "help"
LATHE_ISA=ref "$lathe" devices | grep "cpu-ref" >/dev/null || fail "LATHE_ISA"

# --- Machines ------------------------------------------------------------------------------------
devices "one GPU" "" 'cuda:0 +NVIDIA Test A, compute capability 9\.0, 80\.0 GB' 'driver +runs CUDA 13\.0'
devices "two GPUs" "FAKE_COUNT=2 FAKE_SECOND=89" 'cuda:0 .*9\.0' 'cuda:1 +NVIDIA Test B, .*8\.9'
devices "no GPU" "FAKE_INIT=100" 'cuda +there is an NVIDIA driver but no GPU' 'driver +runs' 'auto chooses cpu: there is an'
devices "no GPU, no error" "FAKE_COUNT=0" 'NVIDIA driver but no GPU'
devices "hidden GPU" "FAKE_INIT=100 CUDA_VISIBLE_DEVICES=7" 'CUDA_VISIBLE_DEVICES is "7"'
devices "driver and kernel module" "FAKE_INIT=803" 'cuInit: CUDA_ERROR_TEST \(803\): as the test wants; .*restart the machine'
devices "stub" "FAKE_INIT=34" 'stubs folder'
devices "fabric manager" "FAKE_INIT=802" 'nvidia-fabricmanager'
devices "unknown error" "FAKE_INIT=999" 'CUDA_ERROR_TEST \(999\)' 'auto chooses cpu'
devices "error later on" "FAKE_ATTRIBUTE=1" 'cuDeviceGetAttribute: CUDA_ERROR_TEST'
devices "a function is missing" "LD_LIBRARY_PATH=$PWD/old" 'too old: its libcuda.so.1 lacks cuGetErrorString'
if ! ldconfig -p 2>/dev/null | grep 'libcuda\.so\.1' >/dev/null; then
    devices "no driver" "LD_LIBRARY_PATH=$PWD/none" 'cuda +no NVIDIA driver here \(libcuda.so.1 is not found\)' \
        'driver +no NVIDIA driver' 'auto chooses cpu: no NVIDIA driver'
fi

if grep -q 'build .*no CUDA kernels' here.txt; then
    devices "no kernels" "" 'auto chooses cpu: this build of lathe has no CUDA kernels' 'can not be used: this build'
else
    devices "too old a GPU" "FAKE_CAPABILITY=75" 'can not be used: .*capability 7\.5; lathe needs 8\.0' 'auto chooses cpu: GPU 0'
    devices "too old a driver" "FAKE_DRIVER=11080" 'driver is too old: it runs CUDA 11\.8 and this build of lathe needs 1[2-9]\.'
    ours=$(sed -nE 's/.*kernels for sm_([0-9]+).*/\1/p' here.txt)
    devices "the second GPU" "FAKE_CAPABILITY=75 FAKE_COUNT=2 FAKE_SECOND=$ours" 'auto chooses cuda:1'
fi

[ $failures -eq 0 ] && echo "ok"
exit $((failures > 0))
