/* Uploads and downloads through a ring of pinned chunks.
 *
 *     caller's memory --memcpy--> chunk --asynchronous copy, in the stream's order--> GPU
 *
 * While the hardware copies one chunk the host fills the next, so weights come straight from their
 * memory map at the speed of the slower of the two. Small uploads (a batch of ids) share a chunk,
 * one behind the other, and cost no waiting. A chunk is used again when the copies out of it are
 * done: its event, recorded behind them when the host left it, says so. */
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/staging.cuh"

enum { CHUNKS = 4 };
static const size_t CHUNK_BYTES = (size_t)8 << 20;
static const size_t ALIGNMENT = 256; /* of each copy within a chunk */

struct lt_staging {
    unsigned char *pinned; /* CHUNKS x CHUNK_BYTES */
    cudaEvent_t done[CHUNKS];
    int current;
    size_t used; /* bytes of the current chunk that are taken */
};

lt_status staging_create(lt_cuda *cuda, lt_err *err)
{
    lt_staging *staging = (lt_staging *)calloc(1, sizeof *staging);
    if (!staging) return lt_fail_nomem(err, sizeof *staging, "a CUDA backend");
    cuda->staging = staging;
    LT_TRY(lt_cuda_check(cudaMallocHost((void **)&staging->pinned, CHUNKS * CHUNK_BYTES),
                         "pinned staging memory", err));
    for (int i = 0; i < CHUNKS; i++)
        LT_TRY(lt_cuda_check(cudaEventCreateWithFlags(&staging->done[i], cudaEventDisableTiming),
                             "pinned staging memory", err));
    return LT_OK;
}

void staging_free(lt_cuda *cuda)
{
    lt_staging *staging = cuda->staging;
    if (!staging) return;
    for (int i = 0; i < CHUNKS; i++)
        if (staging->done[i]) cudaEventDestroy(staging->done[i]);
    if (staging->pinned) cudaFreeHost(staging->pinned);
    free(staging);
    cuda->staging = NULL;
}

static unsigned char *chunk_at(const lt_staging *staging, int chunk)
{
    return staging->pinned + (size_t)chunk * CHUNK_BYTES;
}

/* Leaves the current chunk and waits until the next one's copies are done. */
static lt_status next_chunk(lt_cuda *cuda, const char *operation, lt_err *err)
{
    lt_staging *staging = cuda->staging;
    LT_TRY(lt_cuda_check(cudaEventRecord(staging->done[staging->current], cuda->stream), operation,
                         err));
    staging->current = (staging->current + 1) % CHUNKS;
    staging->used = 0;
    return lt_cuda_check(cudaEventSynchronize(staging->done[staging->current]), operation, err);
}

static lt_status refuse_while_recording(const lt_cuda *cuda, const char *operation, lt_err *err)
{
    if (!cuda->recording) return LT_OK;
    return lt_fail(err, LT_ERR_USAGE, "%s: not while operations are being recorded", operation);
}

lt_status staging_upload(const lt_backend *backend, void *to, const void *from, size_t bytes,
                         lt_err *err)
{
    lt_cuda *cuda = cuda_of(backend);
    lt_staging *staging = cuda->staging;
    LT_TRY(refuse_while_recording(cuda, "upload", err));
    for (size_t at = 0; at < bytes;) {
        if (staging->used == CHUNK_BYTES) LT_TRY(next_chunk(cuda, "upload", err));
        size_t room = CHUNK_BYTES - staging->used;
        size_t piece = bytes - at < room ? bytes - at : room;
        unsigned char *pinned = chunk_at(staging, staging->current) + staging->used;
        memcpy(pinned, (const unsigned char *)from + at, piece);
        LT_TRY(lt_cuda_check(cudaMemcpyAsync((unsigned char *)to + at, pinned, piece,
                                             cudaMemcpyHostToDevice, cuda->stream),
                             "upload", err));
        staging->used += (piece + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        at += piece;
    }
    return LT_OK;
}

static size_t piece_bytes(size_t bytes, size_t piece)
{
    size_t left = bytes - piece * CHUNK_BYTES;
    return left < CHUNK_BYTES ? left : CHUNK_BYTES;
}

/* Waits until a piece of a download has come and copies it on to the caller. */
static lt_status collect(const lt_staging *staging, int chunk, void *to, size_t bytes, lt_err *err)
{
    LT_TRY(lt_cuda_check(cudaEventSynchronize(staging->done[chunk]), "download", err));
    memcpy(to, chunk_at(staging, chunk), bytes);
    return LT_OK;
}

/* Piece by piece into the next chunks; each is collected while the hardware works on the one behind
 * it. */
lt_status staging_download(const lt_backend *backend, void *to, const void *from, size_t bytes,
                           lt_err *err)
{
    lt_cuda *cuda = cuda_of(backend);
    lt_staging *staging = cuda->staging;
    size_t pieces = (bytes + CHUNK_BYTES - 1) / CHUNK_BYTES;
    LT_TRY(refuse_while_recording(cuda, "download", err));
    if (pieces == 0) return LT_OK;
    /* uploads from the current chunk come first in the stream, so it may be written now */
    int first = staging->current;
    for (size_t i = 0; i <= pieces; i++) {
        if (i < pieces) {
            LT_TRY(lt_cuda_check(cudaMemcpyAsync(chunk_at(staging, staging->current),
                                                 (const unsigned char *)from + i * CHUNK_BYTES,
                                                 piece_bytes(bytes, i), cudaMemcpyDeviceToHost,
                                                 cuda->stream),
                                 "download", err));
            LT_TRY(next_chunk(cuda, "download", err));
        }
        if (i > 0)
            LT_TRY(collect(staging, (int)(((size_t)first + i - 1) % CHUNKS),
                           (unsigned char *)to + (i - 1) * CHUNK_BYTES, piece_bytes(bytes, i - 1),
                           err));
    }
    return LT_OK;
}
