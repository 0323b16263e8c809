#!/usr/bin/env bash
# Shows that the emulator's tests see bugs: seeds each line of mutations.txt into its kernel, builds the test that has to
# notice, and expects it to fail.
#
#   tests/emulator/mutations.sh BUILD [PATTERN]    BUILD: a build folder of cmake; PATTERN: only lines that match; without
#                                                  one, those with barriers, or with LATHE_LONG_TESTS all
#
# A line is FILE|TEST|WHAT|SED: a file of kernels/cuda, the test program, the bug in words, and the edit. Where WHAT begins
# with "control:" the edit is harmless, and the test has to pass: so a failure means what it says.
set -euo pipefail
source=$(cd "$(dirname "$0")/../.." && pwd)
build=$(cd "${1:?the build folder}" && pwd)
pattern=${2:-}
if [ -z "$pattern" ]; then
    pattern='barrier|control'
    [ -z "${LATHE_LONG_TESTS:-}" ] || pattern=.
fi
list=$source/tests/emulator/mutations.txt
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Every kernel but the mutated one, as it was built.
objects=$build/tests/CMakeFiles/lathe_cuda_emulated.dir
compile=(g++ -std=c++17 -O1 -DLT_EMULATOR -D_GNU_SOURCE -DLATHE_VERSION='"test"' -ffp-contract=off)

# The sources that include the file: itself, or for a header all that do.
users_of() {
    case $1 in
    *.cu) echo "$1" ;;
    *) (cd "$source/kernels/cuda" && grep -l "kernels/cuda/$1\"" ./*.cu ./*.cuh | sed 's|^\./||' | while read -r user; do
           case $user in *.cuh) users_of "$user" ;; *) echo "$user" ;; esac
       done | sort -u) ;;
    esac
}

check() { # FILE TEST WHAT SED
    local folder=$1 file=$2 test=$3 what=$4 edit=$5 others=() mine=() user
    mkdir -p "$folder/kernels"
    cp -r "$source/kernels/cuda" "$folder/kernels/cuda"
    case $edit in
    "-E "*) sed -i -E "${edit#-E }" "$folder/kernels/cuda/$file" ;;
    *) sed -i "$edit" "$folder/kernels/cuda/$file" ;;
    esac
    if cmp -s "$source/kernels/cuda/$file" "$folder/kernels/cuda/$file"; then
        echo "STALE    $file: $what (the edit changes nothing)"
        return
    fi
    for user in $(users_of "$file"); do
        if ! "${compile[@]}" -I"$folder" -I"$source" -I"$source/tests/emulator" -x c++ -c "$folder/kernels/cuda/$user" \
            -o "$folder/$user.o" 2>"$folder/log"; then
            echo "STALE    $file: $what (does not compile)"
            return
        fi
        mine+=("$folder/$user.o")
    done
    while IFS= read -r object; do
        [ -e "$folder/$(basename "$object")" ] || others+=("$object")
    done < <(find "$objects" -name '*.o')
    local program
    program=$(find "$build/tests/CMakeFiles/$test.dir" -name "$test.*.o")
    # shellcheck disable=SC2086
    if ! g++ -o "$folder/test" "$program" "${mine[@]}" "${others[@]}" \
        "$build"/liblathe_{train,model,data_pipeline,kernels,base}.a $LIBRARIES -rdynamic 2>"$folder/log"; then
        echo "STALE    $file: $what (does not link)"
        return
    fi
    local verdict="caught  "
    if timeout 300 "$folder/test" >"$folder/log" 2>&1; then verdict=SURVIVED; fi
    case $what in control:*) [ "$verdict" = SURVIVED ] && verdict="passed  " || verdict="BROKEN  " ;; esac
    echo "$verdict $file: $what"
    rm -rf "$folder"
}
export -f check users_of
export source build objects

# what the tests are linked with, as cmake wrote it down
LIBRARIES=$(sed -e 's/.*lathe_base\.a//' -e 's/ -[oW][^ ]* / /g' "$build/tests/CMakeFiles/test_model_emulated.dir/link.txt" | tail -1)
export LIBRARIES

number=0
grep -v '^#' "$list" | grep -E "$pattern" | while IFS='|' read -r file test what edit; do
    number=$((number + 1))
    printf '%s\0' "$work/$number" "$file" "$test" "$what" "$edit"
done | xargs -0 -n 5 -P "$(nproc)" bash -c "$(declare -p compile); check \"\$@\"" _ | tee "$work/results"

caught=$(grep -c '^caught' "$work/results" || true)
others=$(grep -vcE '^(caught|passed)' "$work/results" || true)
echo "$caught seeded bugs caught, $others not"
[ "$others" -eq 0 ]
