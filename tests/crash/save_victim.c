/* Saves as Lathe saves, to be disturbed by the crash tests:
 *
 *   save_victim file|directory|together|replace PATH GENERATION
 *   save_victim loop-file|loop-replace PATH GENERATION    that generation and all after it, each
 *                                                         number printed once it is saved
 *
 * A file is PATH itself, a directory has FILE_COUNT files, the last of them written without any
 * care; "together": the first of them as two processes write one. Exits with 0 when saved. */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fsio.h"
#include "content.h"

/* In several pieces, as a large file is. */
static lt_status save_file(const char *path, int generation, int number, lt_err *err)
{
    static unsigned char content[CONTENT_MAX];
    fill_content(generation, number, content);
    lt_new_file file;
    LT_TRY(lt_new_file_begin(&file, path, err));
    lt_status status = LT_OK;
    for (size_t at = 0; at < CONTENT_SIZE(number) && status == LT_OK; at += 16384) {
        size_t rest = CONTENT_SIZE(number) - at;
        status = lt_new_file_write(&file, content + at, rest < 16384 ? rest : 16384, err);
    }
    if (status == LT_OK) return lt_new_file_commit(&file, err);
    lt_new_file_abort(&file);
    return status;
}

/* As code does that knows nothing of commits: the commit of the directory has to make it durable.
 */
static lt_status save_plainly(const char *path, int generation, int number, lt_err *err)
{
    static unsigned char content[CONTENT_MAX];
    fill_content(generation, number, content);
    int fd = -1;
    do
        fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    while (fd < 0 && errno == EINTR);
    if (fd < 0) return lt_fail(err, LT_ERR_IO, "%s: %s", path, strerror(errno));
    for (size_t at = 0; at < CONTENT_SIZE(number);) {
        ssize_t put = write(fd, content + at, CONTENT_SIZE(number) - at);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) {
            close(fd);
            return lt_fail(err, LT_ERR_IO, "%s: %s", path, strerror(errno));
        }
        at += (size_t)put;
    }
    close(fd);
    return LT_OK;
}

/* The second half by one, the first by another. */
static lt_status save_together(const char *path, int generation, int number, lt_err *err)
{
    static unsigned char content[CONTENT_MAX];
    size_t size = CONTENT_SIZE(number), half = size / 2;
    lt_shared_file first = {0}, second = {0};
    lt_status status;
    fill_content(generation, number, content);
    LT_TRY_GOTO(status, lt_shared_file_create(&first, path, size, err), done);
    LT_TRY_GOTO(status, lt_shared_file_open(&second, path, err), done);
    LT_TRY_GOTO(status, lt_shared_file_write(&second, half, content + half, size - half, err),
                done);
    LT_TRY_GOTO(status, lt_shared_file_write(&first, 0, content, half, err), done);
    LT_TRY_GOTO(status, lt_shared_file_finish(&first, err), done);
    status = lt_shared_file_finish(&second, err);
done:
    lt_shared_file_abort(&first);
    lt_shared_file_abort(&second);
    return status;
}

typedef lt_status (*save_one)(const char *path, int generation, int number, lt_err *err);

static lt_status save_directory(const char *path, int generation, const char *mode, lt_err *err)
{
    bool replace = strcmp(mode, "replace") == 0;
    save_one first = strcmp(mode, "together") == 0 ? save_together : save_file;
    lt_new_directory directory;
    LT_TRY(lt_new_directory_begin(&directory, path, err));
    lt_status status = LT_OK;
    lt_buffer name = {0};
    for (int i = 0; i < FILE_COUNT && status == LT_OK; i++) {
        char short_name[16];
        snprintf(short_name, sizeof short_name, "file%d", i);
        status = lt_path_join(&name, directory.temporary, short_name, err);
        save_one save = i == 0 ? first : i < FILE_COUNT - 1 ? save_file : save_plainly;
        if (status == LT_OK) status = save(name.data, generation, i, err);
    }
    lt_buffer_free(&name);
    if (status == LT_OK) return lt_new_directory_commit(&directory, replace, err);
    lt_new_directory_abort(&directory);
    return status;
}

int main(int argc, char **argv)
{
    if (argc != 4) return 2;
    bool loop = strncmp(argv[1], "loop-", 5) == 0;
    const char *mode = argv[1] + (loop ? 5 : 0);
    lt_err err = {0};
    for (int generation = atoi(argv[3]);; generation++) {
        lt_status status = strcmp(mode, "file") == 0
                               ? save_file(argv[2], generation, 0, &err)
                               : save_directory(argv[2], generation, mode, &err);
        if (status != LT_OK) {
            dprintf(2, "save_victim: %s\n", err.message);
            return 1;
        }
        if (!loop) return 0;
        dprintf(1, "%d\n", generation);
    }
}
