/* Each kind of collective, done with MPI's.
 *
 * MPI waits with a busy core, and the ranks of one host share cores with what they compute. So
 * nothing here waits inside MPI: the ranks meet first, asking now and then whether all are there,
 * and then take part in the collective, giving the core away whenever it does not go on at once.
 * Long ones go in pieces: what MPI copies in between stays in the cache, and no count is beyond an
 * int. */
#ifdef LT_HAVE_MPI

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "model/formats/numbers.h"
#include "train/comm/mpi_collectives.h"

#define YIELDS         20
#define SHORTEST_PAUSE 20000L /* nanoseconds */
#define LONGEST_PAUSE  200000L

static lt_status check(int code, const char *call, lt_err *err)
{
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    if (code == MPI_SUCCESS) return LT_OK;
    MPI_Error_string(code, text, &length);
    return lt_fail(err, LT_ERR_IO, "%s failed: %.*s", call, length, text);
}

#define MPI_TRY(function, arguments) LT_TRY(check(function arguments, #function, err))

/* --- Sums of bf16, which MPI does not know -----------------------------------------------------
 */

static void add_bf16(void *from, void *to, int *count, MPI_Datatype *type)
{
    const uint16_t *a = from;
    uint16_t *b = to;
    (void)type;
    for (int i = 0; i < *count; i++)
        b[i] = lt_f32_to_bf16(lt_bf16_to_f32(a[i]) + lt_bf16_to_f32(b[i]));
}

static MPI_Datatype type_of(lt_dtype dtype)
{
    return dtype == LT_F32 ? MPI_FLOAT : dtype == LT_F64 ? MPI_DOUBLE : MPI_UINT16_T;
}

static MPI_Op sum_of(const lt_mpi *mpi, lt_dtype dtype)
{
    return dtype == LT_BF16 ? mpi->sum_bf16 : MPI_SUM;
}

/* --- Preparation -------------------------------------------------------------------------------
 */

lt_status lt_mpi_prepare(lt_mpi *mpi, lt_err *err)
{
    MPI_TRY(MPI_Comm_set_errhandler, (MPI_COMM_WORLD, MPI_ERRORS_RETURN));
    MPI_TRY(MPI_Comm_rank, (MPI_COMM_WORLD, &mpi->rank));
    MPI_TRY(MPI_Comm_size, (MPI_COMM_WORLD, &mpi->size));
    MPI_TRY(MPI_Op_create, (add_bf16, 1, &mpi->sum_bf16));
    mpi->counts = calloc((size_t)mpi->size, sizeof *mpi->counts);
    if (!mpi->counts) return lt_fail_nomem(err, (size_t)mpi->size * sizeof *mpi->counts, "MPI");
    return LT_OK;
}

void lt_mpi_clear(lt_mpi *mpi)
{
    free(mpi->counts);
    free(mpi->scratch);
    *mpi = (lt_mpi){0};
}

static lt_status reserve_scratch(lt_mpi *mpi, size_t bytes, lt_err *err)
{
    if (bytes <= mpi->scratch_bytes) return LT_OK;
    void *grown = realloc(mpi->scratch, bytes);
    if (!grown) return lt_fail_nomem(err, bytes, "a collective");
    mpi->scratch = grown;
    mpi->scratch_bytes = bytes;
    return LT_OK;
}

/* --- Meeting -----------------------------------------------------------------------------------
 */

/* Asks whether it is done, again and again: at once, and later after pauses that grow up to
 * `longest_pause`. */
static lt_status finish(MPI_Request *request, const char *call, long longest_pause, lt_err *err)
{
    struct timespec pause = {.tv_nsec = SHORTEST_PAUSE};
    int done = 0;
    for (int asked = 1;; asked++) {
        LT_TRY(check(MPI_Test(request, &done, MPI_STATUS_IGNORE), call, err));
        if (done) return LT_OK;
        if (asked <= YIELDS) {
            sched_yield();
            continue;
        }
        nanosleep(&pause, NULL);
        if (pause.tv_nsec < longest_pause) pause.tv_nsec += pause.tv_nsec / 4;
    }
}

static lt_status meet(lt_err *err)
{
    MPI_Request request;
    LT_TRY(check(MPI_Ibarrier(MPI_COMM_WORLD, &request), "MPI_Ibarrier", err));
    return finish(&request, "MPI_Ibarrier", LONGEST_PAUSE, err);
}

/* Starts the collective `function`, whose last argument is the request, and finishes it. */
#define MPI_DO(function, ...)                                            \
    do {                                                                 \
        MPI_Request request_;                                            \
        LT_TRY(check(function(__VA_ARGS__, &request_), #function, err)); \
        LT_TRY(finish(&request_, #function, SHORTEST_PAUSE, err));       \
    } while (0)

/* --- The collectives, in pieces ----------------------------------------------------------------
 */

static int64_t at_most(int64_t count, size_t limit)
{
    if (limit < 1) limit = 1;
    return (uint64_t)count < limit ? count : (int64_t)limit;
}

static lt_status all_reduce(const lt_mpi *mpi, const lt_collective *c, size_t piece_bytes,
                            lt_err *err)
{
    size_t size = lt_dtype_size(c->dtype);
    MPI_Op op = c->operation == LT_COMM_MAX ? MPI_MAX : sum_of(mpi, c->dtype);
    for (int64_t done = 0, piece; done < c->count; done += piece) {
        piece = at_most(c->count - done, piece_bytes / size);
        char *at = (char *)c->to + (size_t)done * size;
        MPI_DO(MPI_Iallreduce, MPI_IN_PLACE, at, (int)piece, type_of(c->dtype), op, MPI_COMM_WORLD);
    }
    return LT_OK;
}

static lt_status broadcast(const lt_collective *c, size_t piece_bytes, lt_err *err)
{
    int64_t bytes = c->count * (int64_t)lt_dtype_size(c->dtype);
    for (int64_t done = 0, piece; done < bytes; done += piece) {
        piece = at_most(bytes - done, piece_bytes);
        MPI_DO(MPI_Ibcast, (char *)c->to + done, (int)piece, MPI_BYTE, c->root, MPI_COMM_WORLD);
    }
    return LT_OK;
}

/* Elements done .. done + piece of every rank's part, one rank's behind the other's. */
static lt_status pack(lt_mpi *mpi, const lt_collective *c, int64_t done, int64_t piece, lt_err *err)
{
    size_t size = lt_dtype_size(c->dtype), bytes = (size_t)piece * size;
    LT_TRY(reserve_scratch(mpi, bytes * (size_t)mpi->size, err));
    for (int rank = 0; rank < mpi->size; rank++) {
        size_t from = ((size_t)rank * (size_t)c->count + (size_t)done) * size;
        memcpy((char *)mpi->scratch + (size_t)rank * bytes, (const char *)c->from + from, bytes);
    }
    return LT_OK;
}

/* MPI puts the result in front of what it summed, and not where `to` may lie within it. */
static lt_status reduce_scatter(lt_mpi *mpi, const lt_collective *c, size_t piece_bytes,
                                lt_err *err)
{
    size_t size = lt_dtype_size(c->dtype);
    for (int64_t done = 0, piece; done < c->count; done += piece) {
        piece = at_most(c->count - done, piece_bytes / size / (size_t)mpi->size);
        LT_TRY(pack(mpi, c, done, piece, err));
        for (int rank = 0; rank < mpi->size; rank++)
            mpi->counts[rank] = (int)piece;
        MPI_DO(MPI_Ireduce_scatter, MPI_IN_PLACE, mpi->scratch, mpi->counts, type_of(c->dtype),
               sum_of(mpi, c->dtype), MPI_COMM_WORLD);
        memcpy((char *)c->to + (size_t)done * size, mpi->scratch, (size_t)piece * size);
    }
    return LT_OK;
}

/* A run of `bytes` bytes, the next one `distance` bytes after its begin. */
static lt_status make_spread_type(int bytes, int64_t distance, MPI_Datatype *out, lt_err *err)
{
    MPI_Datatype run;
    MPI_TRY(MPI_Type_contiguous, (bytes, MPI_BYTE, &run));
    int code = MPI_Type_create_resized(run, 0, (MPI_Aint)distance, out);
    MPI_Type_free(&run);
    LT_TRY(check(code, "MPI_Type_create_resized", err));
    MPI_TRY(MPI_Type_commit, (out));
    return LT_OK;
}

/* Bytes done .. done + piece of each part, to the same place in each part of the whole. */
static lt_status gather_piece(const lt_mpi *mpi, const lt_collective *c, int64_t done,
                              int64_t piece, int64_t part, lt_err *err)
{
    MPI_Datatype spread;
    const char *mine = (const char *)c->to + (size_t)mpi->rank * (size_t)part;
    const void *from = c->from == mine ? MPI_IN_PLACE : (const char *)c->from + done;
    LT_TRY(make_spread_type((int)piece, part, &spread, err));
    MPI_DO(MPI_Iallgather, from, (int)piece, MPI_BYTE, (char *)c->to + done, 1, spread,
           MPI_COMM_WORLD);
    MPI_Type_free(&spread);
    return LT_OK;
}

static lt_status all_gather(const lt_mpi *mpi, const lt_collective *c, size_t piece_bytes,
                            lt_err *err)
{
    int64_t part = c->count * (int64_t)lt_dtype_size(c->dtype);
    for (int64_t done = 0, piece; done < part; done += piece) {
        piece = at_most(part - done, piece_bytes / (size_t)mpi->size);
        LT_TRY(gather_piece(mpi, c, done, piece, part, err));
    }
    return LT_OK;
}

lt_status lt_mpi_collective(lt_mpi *mpi, const lt_collective *collective, size_t piece_bytes,
                            lt_err *err)
{
    LT_TRY(meet(err));
    switch (collective->operation) {
    case LT_COMM_REDUCE_SCATTER:
        return reduce_scatter(mpi, collective, piece_bytes, err);
    case LT_COMM_ALL_GATHER:
        return all_gather(mpi, collective, piece_bytes, err);
    case LT_COMM_BROADCAST:
        return broadcast(collective, piece_bytes, err);
    default:
        return all_reduce(mpi, collective, piece_bytes, err);
    }
}

#endif
