/* XXH3-128 in its canonical (big-endian) form: the text is what `xxh128sum` prints. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/fsio.h"

#define CHUNK_BYTES ((size_t)1 << 20)

static void to_text(XXH128_hash_t hash, char out[LT_HASH_TEXT_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, hash);
    for (size_t i = 0; i < sizeof canonical.digest; i++) {
        out[2 * i] = digits[canonical.digest[i] >> 4];
        out[2 * i + 1] = digits[canonical.digest[i] & 15];
    }
    out[LT_HASH_TEXT_SIZE - 1] = '\0';
}

void lt_hash_bytes(const void *data, size_t size, char out[LT_HASH_TEXT_SIZE])
{
    to_text(XXH3_128bits(data, size), out);
}

lt_status lt_hash_file(const char *path, uint64_t skip_bytes, char out[LT_HASH_TEXT_SIZE],
                       lt_err *err)
{
    lt_status status = LT_OK;
    unsigned char *chunk = malloc(CHUNK_BYTES);
    XXH3_state_t *state = XXH3_createState();
    int fd = -1;
    if (!chunk || !state) {
        status = lt_fail_nomem(err, CHUNK_BYTES, "hashing a file");
        goto done;
    }
    XXH3_128bits_reset(state);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    off_t end = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    if (end < 0) {
        status = lt_fail(err, LT_ERR_IO, "%s: cannot be read: %s", path, strerror(errno));
        goto done;
    }
    if ((uint64_t)end < skip_bytes) {
        status = lt_fail(err, LT_ERR_FORMAT, "%s: has %lld bytes, at least %llu are expected", path,
                         (long long)end, (unsigned long long)skip_bytes);
        goto done;
    }
    for (off_t at = (off_t)skip_bytes;;) {
        ssize_t got = pread(fd, chunk, CHUNK_BYTES, at);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            status = lt_fail(err, LT_ERR_IO, "%s: cannot be read: %s", path, strerror(errno));
            goto done;
        }
        if (got == 0) break;
        XXH3_128bits_update(state, chunk, (size_t)got);
        at += got;
    }
    to_text(XXH3_128bits_digest(state), out);
done:
    if (fd >= 0) close(fd);
    XXH3_freeState(state);
    free(chunk);
    return status;
}
