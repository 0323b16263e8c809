/* What ranks say to each other on the host: sums, texts, agreement on a failure, comparing identity
 * and sequence, opening; under mpirun. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "mpi_run.h"

static void check_values(lt_comm *comm)
{
    int rank = comm->rank, size = comm->size;
    double sums[] = {rank + 1, 0.5, -rank}, most[] = {rank == 1 ? 7 : -3, -rank - 1};
    CHECK_OK(lt_comm_sum(comm, sums, 3, err));
    CHECK(sums[0] == size * (size + 1) / 2 && sums[1] == 0.5 * size);
    CHECK(sums[2] == -size * (size - 1) / 2);
    CHECK_OK(lt_comm_max(comm, most, 2, err));
    CHECK(most[0] == 7 && most[1] == -1);
    CHECK_OK(lt_comm_sum(comm, NULL, 0, err));
    CHECK_OK(lt_comm_barrier(comm, err));
}

static void check_gather(lt_comm *comm)
{
    for (size_t bytes = 1; bytes < 5000; bytes = bytes * 3 + 1) {
        unsigned char *mine = malloc(bytes), *all = malloc(bytes * (size_t)comm->size);
        CHECK(mine && all);
        memset(mine, 'a' + comm->rank, bytes);
        CHECK_OK(lt_comm_gather_bytes(comm, mine, bytes, all, err));
        for (size_t i = 0; i < bytes * (size_t)comm->size; i++)
            CHECK(all[i] == 'a' + i / bytes);
        free(mine);
        free(all);
    }
}

static void check_texts(lt_comm *comm)
{
    enum { LONG = 100000 };
    char *text = calloc(LONG + 1, 1), *shared = NULL;
    CHECK(text);
    memset(text, 'x', LONG);
    for (int length = 0; length <= LONG; length = length * 10 + 7) {
        text[length] = '\0';
        CHECK_OK(lt_comm_share_text(comm, comm->rank == 0 ? text : "mine", &shared, err));
        CHECK(strcmp(shared, text) == 0);
        free(shared);
        text[length] = 'x';
    }
    free(text);
}

/* --- Agreement ---------------------------------------------------------------------------------
 */

static void agree_that_fails(lt_comm *comm, int first, int second, const char *expected)
{
    lt_err err = {0};
    lt_status mine = LT_OK;
    if (comm->rank == first || comm->rank == second)
        mine = lt_fail(&err, comm->rank == first ? LT_ERR_FORMAT : LT_ERR_IO, "file %d is bad",
                       comm->rank);
    CHECK(lt_comm_agree(comm, mine, &err) == LT_ERR_FORMAT);
    CHECK(err.code == LT_ERR_FORMAT);
    CHECK(strcmp(err.message, expected) == 0);
}

static void check_agreement(lt_comm *comm)
{
    lt_err err = {0};
    char expected[256];
    CHECK(lt_comm_agree(comm, LT_OK, &err) == LT_OK);
    agree_that_fails(comm, 0, -1, "file 0 is bad");
    agree_that_fails(comm, 0, 1, "file 0 is bad");
    for (int rank = 1; rank < comm->size; rank++) {
        snprintf(expected, sizeof expected, "rank %d (%s): file %d is bad", rank, comm->place.host,
                 rank);
        agree_that_fails(comm, rank, rank + 1, expected);
    }
    CHECK(lt_comm_agree(comm, comm->rank ? LT_OK : LT_ERR_LIMIT, NULL) == LT_ERR_LIMIT);
}

/* --- Identity -----------------------------------------------------------------------------------
 */

static void expect_different(lt_comm *comm, const char *zero, const char *one, const char *expected)
{
    lt_err err = {0};
    CHECK(lt_comm_compare_identity(comm, comm->rank == 1 ? one : zero, &err) == LT_ERR_USAGE);
    char *at = strstr(err.message, expected);
    if (!at) fprintf(stderr, "\"%s\" lacks \"%s\"\n", err.message, expected);
    CHECK(at && strncmp(err.message, "rank 1 (", 8) == 0);
    CHECK(strstr(err.message, "; all processes need the same command, data and program"));
}

static void check_identity(lt_comm *comm)
{
    char expected[256];
    const char *host = comm->place.host, *same = "version: 1\nlearning_rate: 0.0002\nlayers: 2\n";
    CHECK_OK(lt_comm_compare_identity(comm, same, err));
    CHECK_OK(lt_comm_compare_identity(comm, "", err));
    snprintf(expected, sizeof expected,
             "rank 1 (%s) has learning_rate: 0.0001, rank 0 (%s) has learning_rate: 0.0002; ", host,
             host);
    expect_different(comm, same, "version: 1\nlearning_rate: 0.0001\nlayers: 3\n", expected);
    snprintf(expected, sizeof expected,
             "has no learning_rate, rank 0 (%s) has learning_rate: 0.0002; ", host);
    expect_different(comm, same, "version: 1\nlayers: 2\n", expected);
    snprintf(expected, sizeof expected, "has seed: 3, rank 0 (%s) has no seed; ", host);
    expect_different(comm, same, "version: 1\nlearning_rate: 0.0002\nlayers: 2\nseed: 3", expected);
    expect_different(comm, same, "", "has no version, ");
    /* a value may hold a colon, and one name begin with another */
    expect_different(comm, "data: a:b\ndata_size: 1\n", "data: a:c\ndata_size: 1\n", "data: a:c, ");
    expect_different(comm, "data_size: 1\n", "data: 1\n", "has no data_size, ");
    expect_different(comm, "data: 1\n", "data_size: 1\ndata: 1\n", "has no data_size; ");
}

/* --- Sequence -----------------------------------------------------------------------------------
 */

static void check_sequence(lt_comm *comm, const char *log)
{
    float data[4] = {0};
    lt_comm_ticket ticket;
    lt_err err = {0};
    lt_buffer record = {0};
    CHECK_OK(lt_comm_check_sequence(comm, err));
    bool odd = comm->rank == comm->size - 1;
    /* the same bytes, and so MPI does not mind */
    lt_tensor t = odd ? lt_tensor_1d(data, LT_I32, 4) : lt_tensor_1d(data, LT_F32, 4);
    CHECK_OK(lt_comm_broadcast(comm, t, 0, &ticket, err));
    CHECK_OK(lt_comm_wait(comm, &ticket, err));
    CHECK(lt_comm_check_sequence(comm, &err) == LT_ERR_INTERNAL);
    char who[128];
    snprintf(who, sizeof who, "same collectives: rank %d (%s) after ", comm->size - 1,
             comm->place.host);
    CHECK(strstr(err.message, who));
    CHECK_OK(lt_comm_flight_record(comm, &record, err));
    CHECK(strstr(lt_buffer_text(&record), odd ? " broadcast i32 x 4, " : " broadcast f32 x 4, "));
    CHECK(strstr(lt_buffer_text(&record), " host all_gather u8 x "));
    CHECK(strstr(lt_buffer_text(&record), "took "));
    CHECK(!strstr(lt_buffer_text(&record), "not ended"));
    lt_buffer_free(&record);

    char text[16384] = "";
    FILE *file = fopen(log, "r");
    CHECK(file && fread(text, 1, sizeof text - 1, file) > 0);
    fclose(file);
    unlink(log);
    CHECK(strstr(text, who) && strstr(text, "; the last collectives:\n#"));
}

static int talk(void)
{
    lt_backend *backend = NULL;
    char log[64];
    snprintf(log, sizeof log, "/tmp/lathe_test_comm_%d.log", (int)getpid());
    CHECK_OK(lt_backend_create(&(lt_backend_settings){.threads = 1}, &backend, err));
    lt_comm *comm = open_rank(backend, 20, "version: 1\n", log);
    check_values(comm);
    check_gather(comm);
    check_texts(comm);
    check_agreement(comm);
    check_identity(comm);
    check_sequence(comm, log);
    lt_comm_close(comm);
    lt_backend_free(backend);
    return 0;
}

/* Opening fails for all when one rank is about to do something else. */
static int open_differently(void)
{
    lt_backend *backend = NULL;
    lt_comm *comm = NULL;
    lt_err err = {0};
    CHECK_OK(lt_backend_create(&(lt_backend_settings){.threads = 1}, &backend, err));
    lt_comm_settings settings = {.backend = backend, .kind = LT_COMM_MPI};
    CHECK_OK(lt_launch_find_place(&settings.place, err));
    settings.identity = settings.place.rank == 1 ? "seed: 1\n" : "seed: 2\n";
    CHECK(lt_comm_open(&settings, &comm, &err) == LT_ERR_USAGE);
    CHECK(!comm && strstr(err.message, "has seed: 1, rank 0 ("));
    /* once is enough for MPI */
    CHECK(lt_comm_open(&settings, &comm, &err) == LT_ERR_UNSUPPORTED);
    CHECK(strstr(err.message, "once"));
    lt_backend_free(backend);
    return 0;
}

/* --- The tests ----------------------------------------------------------------------------------
 */

static void ranks_agree(void **state)
{
    (void)state;
    if (mpi_is_missing()) skip();
    for (int ranks = 2; ranks <= 4; ranks++)
        assert_int_equal(run_part("talk", ranks, NULL), 0);
}

static void opening_compares(void **state)
{
    (void)state;
    if (mpi_is_missing()) skip();
    assert_int_equal(run_part("open", 3, NULL), 0);
}

/* Said to be one of two, and MPI knows of no other. */
static int be_alone(void)
{
    lt_backend *backend = NULL;
    lt_comm *comm = NULL;
    lt_err err = {0};
    CHECK_OK(lt_backend_create(&(lt_backend_settings){.threads = 1}, &backend, err));
    lt_comm_settings settings = {.place = {.rank = 1, .world_size = 2, .host = "here"},
                                 .backend = backend,
                                 .kind = LT_COMM_MPI};
    CHECK(lt_comm_open(&settings, &comm, &err) == LT_ERR_UNSUPPORTED);
    CHECK(strstr(err.message, "mpirun -n 2 lathe train"));
    lt_backend_free(backend);
    return 0;
}

static void mpi_has_to_know_of_all(void **state)
{
    (void)state;
    if (mpi_is_missing()) skip();
    assert_int_equal(run_part("alone", 1, NULL), 0);
}

static void choice_of_the_backend(void **state)
{
    (void)state;
    lt_backend *backend = NULL;
    lt_err err = {0};
    lt_comm_kind kind = LT_COMM_NCCL;
    CHECK_OK(lt_backend_create(&(lt_backend_settings){.threads = 1}, &backend, err));
    lt_launch_place place = {.launcher = LT_LAUNCHER_NONE, .world_size = 1};
    assert_int_equal(lt_comm_choose(&place, backend, &kind, &err), LT_OK);
    assert_int_equal(kind, LT_COMM_SINGLE);
    place.world_size = 3;
    place.launcher = LT_LAUNCHER_MPI;
    bool built = lt_comm_mpi_available(&err) == LT_OK;
    assert_int_equal(lt_comm_choose(&place, backend, &kind, &err),
                     built ? LT_OK : LT_ERR_UNSUPPORTED);
    if (built) assert_int_equal(kind, LT_COMM_MPI);
    place.launcher = LT_LAUNCHER_TORCHRUN;
    assert_int_equal(lt_comm_choose(&place, backend, &kind, &err), LT_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, built ? "mpirun -n 3 lathe train" : "libopenmpi-dev"));
    lt_backend_free(backend);
}

int main(void)
{
    const char *part = getenv("LATHE_TEST_PART");
    if (part && strcmp(part, "talk") == 0) return talk();
    if (part && strcmp(part, "open") == 0) return open_differently();
    if (part) return be_alone();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(choice_of_the_backend),
        cmocka_unit_test(ranks_agree),
        cmocka_unit_test(opening_compares),
        cmocka_unit_test(mpi_has_to_know_of_all),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    return failed ? failed : mpi_is_missing() ? 77 : 0;
}
