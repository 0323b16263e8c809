/* A folder of the test's own, as fixtures of cmocka. */
#ifndef LT_TEST_FOLDER_H
#define LT_TEST_FOLDER_H

#include "base/fsio.h"
#include "check.h"

static char folder[64];

static UNUSED int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/lathe-test-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

/* In memory where there is such a place: no file that is synced then waits for the disk. */
static UNUSED int make_folder_in_memory(void **state)
{
    if (access("/dev/shm", W_OK) != 0) return make_folder(state);
    strcpy(folder, "/dev/shm/lathe-test-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static UNUSED int remove_folder(void **state)
{
    (void)state;
    return lt_remove_tree(folder, NULL) == LT_OK ? 0 : -1;
}

/* The path of `name` in it, good until four more were asked for. */
static UNUSED const char *at(const char *name)
{
    static char paths[4][200];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

#endif
