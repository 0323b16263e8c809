#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fsio.h"

/* The digests are those of `xxh128sum`. */
static void known_digests(void **state)
{
    (void)state;
    char text[LT_HASH_TEXT_SIZE];
    lt_hash_bytes("", 0, text);
    assert_string_equal(text, "99aa06d3014798d86001c324468d497f");
    lt_hash_bytes("abc", 3, text);
    assert_string_equal(text, "06b05ab6733a618578af5f94892f3950");
}

static void a_file_has_the_hash_of_its_bytes(void **state)
{
    (void)state;
    char path[] = "/tmp/lathe-hash-XXXXXX", from_file[LT_HASH_TEXT_SIZE],
         from_bytes[LT_HASH_TEXT_SIZE];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    const size_t size = 3 * 1024 * 1024 + 17; /* several chunks */
    unsigned char *data = malloc(size);
    assert_non_null(data);
    for (size_t i = 0; i < size; i++)
        data[i] = (unsigned char)(i * i >> 5);
    assert_int_equal(write(fd, data, size), (ssize_t)size);
    close(fd);

    const size_t skips[] = {0, 1, 4096, size};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(lt_hash_file(path, skips[i], from_file, NULL), LT_OK);
        lt_hash_bytes(data + skips[i], size - skips[i], from_bytes);
        assert_string_equal(from_file, from_bytes);
    }
    lt_err err = {0};
    assert_int_equal(lt_hash_file(path, size + 1, from_file, &err), LT_ERR_FORMAT);
    assert_int_equal(lt_hash_file(path, UINT64_MAX, from_file, &err), LT_ERR_FORMAT);
    unlink(path);
    assert_int_equal(lt_hash_file(path, 0, from_file, &err), LT_ERR_IO);
    assert_non_null(strstr(err.message, path));
    assert_int_equal(lt_hash_file("/tmp", 0, from_file, &err), LT_ERR_IO);
    free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_digests),
        cmocka_unit_test(a_file_has_the_hash_of_its_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
