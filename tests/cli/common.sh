# Shared by tests that go on after a failure: a directory of their own, and failures that are counted.
set -u
lathe=${LATHE:?the lathe binary}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
failures=0

fail() {
    echo "FAIL $*"
    failures=$((failures + 1))
}

# refuse NAME EXIT_CODE PATTERN COMMAND...: that exit code, nothing printed, and one error line that matches
refuse() {
    local name=$1 code=$2 pattern=$3 got
    shift 3
    "$@" >out.txt 2>err.txt </dev/null
    got=$?
    [ $got -eq "$code" ] || fail "$name: exit $got, expected $code: $(head -c 400 err.txt)"
    grep -qE -- "$pattern" err.txt || fail "$name: stderr does not match '$pattern': $(head -c 400 err.txt)"
    [ "$(grep -c 'lathe: error:' err.txt)" -eq 1 ] || fail "$name: not one error line: $(head -c 400 err.txt)"
    [ ! -s out.txt ] || fail "$name: printed something: $(head -c 400 out.txt)"
}
