# Shared by the tests of several processes, after train_common.sh: starting them by whatever mpirun is installed.
command -v mpirun >/dev/null || {
    echo "skipped: mpirun is not installed"
    exit 77
}
ldd "$LATHE" | grep libmpi >/dev/null || {
    echo "skipped: this lathe was built without MPI"
    exit 77
}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0 # MPI has its own
if mpirun --version | grep open-mpi.org >/dev/null; then
    mpi_flags=(--oversubscribe --bind-to none)
else
    mpi_flags=(-bind-to none)
fi

# As many processes; one by itself.
together() { # COUNT COMMAND...
    local count=$1
    shift
    if [ "$count" = 1 ]; then
        "$@"
        return
    fi
    mpirun "${mpi_flags[@]}" -n "$count" "$@"
}
