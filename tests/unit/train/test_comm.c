/* The collectives on tensors: of one process, and of 2, 3 and 4 under mpirun. Numbers are small
 * integers, so that sums are exact in every order; how bf16 rounds and that sums have one order is
 * seen with random ones. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/mman.h>

#include "mpi_run.h"

enum { LONGEST = 40001, MOST_RANKS = 4 };

static const int64_t counts[] = {1, 3, 256, 1023, LONGEST};
static const lt_dtype sums[] = {LT_F32, LT_F64, LT_BF16};
#define COUNT_OF(array) (sizeof(array) / sizeof(array)[0])

/* --- Numbers -----------------------------------------------------------------------------------
 */

static double number_of(int rank, int64_t i)
{
    return (double)((i * 7 + rank * 5) % 17 - 8);
}

static void put(void *data, lt_dtype dtype, int64_t i, double x)
{
    float f = (float)x;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if (dtype == LT_F32)
        ((float *)data)[i] = f;
    else if (dtype == LT_F64)
        ((double *)data)[i] = x;
    else
        ((uint16_t *)data)[i] = (uint16_t)(bits >> 16);
}

static double get(const void *data, lt_dtype dtype, int64_t i)
{
    if (dtype == LT_F32) return ((const float *)data)[i];
    if (dtype == LT_F64) return ((const double *)data)[i];
    uint32_t bits = (uint32_t)((const uint16_t *)data)[i] << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static void fill(void *data, lt_dtype dtype, int64_t count, int rank)
{
    for (int64_t i = 0; i < count; i++)
        put(data, dtype, i, number_of(rank, i));
}

static double sum_at(const lt_comm *comm, int64_t i)
{
    double sum = 0;
    for (int rank = 0; rank < lt_comm_size(comm); rank++)
        sum += number_of(rank, i);
    return sum;
}

/* --- Memory: of the CPU, or of a device that only upload and download can reach -----------------
 */

typedef struct room {
    const lt_backend *backend;
    unsigned char *device, *host;
    size_t bytes;
} room;

static room whole, part; /* guarded while they are a device's */

static void allow(const void *address, int protection)
{
    for (room *r = &whole;; r = &part) {
        if ((const unsigned char *)address >= r->device &&
            (const unsigned char *)address < r->device + r->bytes) {
            CHECK(mprotect(r->device, r->bytes, protection) == 0);
            return;
        }
        CHECK(r != &part);
    }
}

static lt_status guarded_upload(const lt_backend *backend, void *to, const void *from, size_t bytes,
                                lt_err *err)
{
    (void)backend;
    (void)err;
    allow(to, PROT_READ | PROT_WRITE);
    memcpy(to, from, bytes);
    allow(to, PROT_NONE);
    return LT_OK;
}

static lt_status guarded_download(const lt_backend *backend, void *to, const void *from,
                                  size_t bytes, lt_err *err)
{
    (void)backend;
    (void)err;
    allow(from, PROT_READ);
    memcpy(to, from, bytes);
    allow(from, PROT_NONE);
    return LT_OK;
}

static void make_room(room *r, const lt_backend *backend, size_t bytes)
{
    r->backend = backend;
    r->bytes = (bytes + 4095) / 4096 * 4096;
    int protection = backend->device == LT_DEVICE_CPU ? PROT_READ | PROT_WRITE : PROT_NONE;
    r->device = mmap(NULL, r->bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    r->host = malloc(r->bytes);
    CHECK(r->device != MAP_FAILED && r->host);
}

static void free_room(room *r)
{
    munmap(r->device, r->bytes);
    free(r->host);
}

static void write_room(room *r, size_t offset, size_t bytes)
{
    CHECK_OK(r->backend->upload(r->backend, r->device + offset, r->host + offset, bytes, err));
}

static void read_room(room *r, size_t offset, size_t bytes)
{
    memset(r->host, 0xee, r->bytes);
    CHECK_OK(r->backend->download(r->backend, r->host + offset, r->device + offset, bytes, err));
}

/* --- Each collective ----------------------------------------------------------------------------
 */

static void check_all_reduce(lt_comm *comm, lt_dtype dtype, int64_t count)
{
    size_t bytes = (size_t)count * lt_dtype_size(dtype);
    lt_comm_ticket ticket;
    fill(whole.host, dtype, count, comm->rank);
    write_room(&whole, 0, bytes);
    CHECK_OK(lt_comm_all_reduce(comm, lt_tensor_1d(whole.device, dtype, count), &ticket, err));
    CHECK_OK(lt_comm_wait(comm, &ticket, err));
    read_room(&whole, 0, bytes);
    for (int64_t i = 0; i < count; i++)
        CHECK(get(whole.host, dtype, i) == sum_at(comm, i));
}

/* Where this rank's part lies: in the whole, or by itself. */
static room *part_room(lt_comm *comm, bool in_place, size_t bytes, size_t *offset)
{
    *offset = in_place ? (size_t)comm->rank * bytes : 0;
    return in_place ? &whole : &part;
}

static void check_reduce_scatter(lt_comm *comm, lt_dtype dtype, int64_t count, bool in_place)
{
    size_t bytes = (size_t)count * lt_dtype_size(dtype), offset;
    int64_t all = count * comm->size, first = count * comm->rank;
    room *mine = part_room(comm, in_place, bytes, &offset);
    lt_comm_ticket ticket;
    fill(whole.host, dtype, all, comm->rank);
    write_room(&whole, 0, bytes * (size_t)comm->size);
    CHECK_OK(lt_comm_reduce_scatter(comm, lt_tensor_1d(whole.device, dtype, all),
                                    lt_tensor_1d(mine->device + offset, dtype, count), &ticket,
                                    err));
    CHECK_OK(lt_comm_wait(comm, &ticket, err));
    read_room(mine, offset, bytes);
    for (int64_t i = 0; i < count; i++)
        CHECK(get(mine->host + offset, dtype, i) == sum_at(comm, first + i));
}

static void check_all_gather(lt_comm *comm, lt_dtype dtype, int64_t count, bool in_place)
{
    size_t bytes = (size_t)count * lt_dtype_size(dtype), offset, all = bytes * (size_t)comm->size;
    room *mine = part_room(comm, in_place, bytes, &offset);
    lt_comm_ticket ticket;
    memset(whole.host, 0xaa, all);
    write_room(&whole, 0, all);
    for (size_t i = 0; i < bytes; i++)
        mine->host[offset + i] = (unsigned char)(i * 31 + (size_t)comm->rank * 101);
    write_room(mine, offset, bytes);
    CHECK_OK(lt_comm_all_gather(comm, lt_tensor_1d(mine->device + offset, dtype, count),
                                lt_tensor_1d(whole.device, dtype, count * comm->size), &ticket,
                                err));
    CHECK_OK(lt_comm_wait(comm, &ticket, err));
    read_room(&whole, 0, all);
    for (size_t i = 0; i < all; i++)
        CHECK(whole.host[i] == (unsigned char)(i % bytes * 31 + i / bytes * 101));
}

static void check_broadcast(lt_comm *comm, lt_dtype dtype, int64_t count, int root)
{
    size_t bytes = (size_t)count * lt_dtype_size(dtype);
    lt_comm_ticket ticket;
    for (size_t i = 0; i < bytes; i++)
        whole.host[i] = (unsigned char)(i * 13 + (size_t)comm->rank * 57);
    write_room(&whole, 0, bytes);
    CHECK_OK(lt_comm_broadcast(comm, lt_tensor_1d(whole.device, dtype, count), root, &ticket, err));
    CHECK_OK(lt_comm_wait(comm, &ticket, err));
    read_room(&whole, 0, bytes);
    for (size_t i = 0; i < bytes; i++)
        CHECK(whole.host[i] == (unsigned char)(i * 13 + (size_t)root * 57));
}

static void check_every_collective(lt_comm *comm, size_t how_many_counts)
{
    make_room(&whole, comm->backend, (size_t)LONGEST * 8 * (size_t)comm->size);
    make_room(&part, comm->backend, (size_t)LONGEST * 8);
    for (size_t c = 0; c < how_many_counts; c++) {
        for (size_t s = 0; s < COUNT_OF(sums); s++) {
            check_all_reduce(comm, sums[s], counts[c]);
            check_reduce_scatter(comm, sums[s], counts[c], false);
            check_reduce_scatter(comm, sums[s], counts[c], true);
        }
        for (int dtype = 0; dtype < LT_DTYPE_COUNT; dtype++) {
            check_all_gather(comm, (lt_dtype)dtype, counts[c], false);
            check_all_gather(comm, (lt_dtype)dtype, counts[c], true);
            check_broadcast(comm, (lt_dtype)dtype, counts[c], (int)(counts[c] % comm->size));
        }
    }
    free_room(&whole);
    free_room(&part);
}

/* --- Order --------------------------------------------------------------------------------------
 */

/* Many at once, waited for in another order than begun. */
static void check_many_in_flight(lt_comm *comm)
{
    enum { MANY = 200, EACH = 777 };
    lt_comm_ticket tickets[MANY];
    float *data = malloc(sizeof *data * MANY * EACH);
    CHECK(data);
    fill(data, LT_F32, MANY * EACH, comm->rank);
    for (int k = 0; k < MANY; k++)
        CHECK_OK(lt_comm_all_reduce(comm, lt_tensor_1d(data + k * EACH, LT_F32, EACH), &tickets[k],
                                    err));
    for (int k = 0; k < MANY; k++) {
        int other = k * 77 % MANY;
        CHECK(tickets[other].sequence);
        CHECK_OK(lt_comm_wait(comm, &tickets[other], err));
        CHECK(!tickets[other].sequence);
        for (int64_t i = other * EACH; i < (other + 1) * EACH; i++)
            CHECK(data[i] == (float)sum_at(comm, i));
    }
    free(data);
}

/* Each begins when those before it have ended: size to the power of the number of sums. */
static void check_one_after_the_other(lt_comm *comm)
{
    enum { TIMES = 6, EACH = 1000 };
    lt_comm_ticket tickets[TIMES];
    double data[EACH], expected = 1;
    for (int i = 0; i < EACH; i++)
        data[i] = i;
    for (int k = 0; k < TIMES; k++, expected *= comm->size)
        CHECK_OK(lt_comm_all_reduce(comm, lt_tensor_1d(data, LT_F64, EACH), &tickets[k], err));
    for (int k = TIMES; k-- > 0;)
        CHECK_OK(lt_comm_wait(comm, &tickets[k], err));
    for (int i = 0; i < EACH; i++)
        CHECK(data[i] == i * expected);
}

/* --- Bits ---------------------------------------------------------------------------------------
 */

static void fill_random(float *data, int64_t count, uint64_t seed)
{
    for (int64_t i = 0; i < count; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        data[i] =
            (float)((double)(seed >> 40) * 0x1p-23 - 1) * (float)((seed >> 33 & 63) == 0 ? 1e6 : 1);
    }
}

/* Two numbers are added in f32 and rounded once, to nearest even: as the device converts. */
static void check_bf16_rounding(lt_comm *comm)
{
    enum { COUNT = 20000 };
    static float f[2][COUNT], sum[COUNT];
    static uint16_t b[2][COUNT], expected[COUNT];
    lt_comm_ticket ticket;
    for (int rank = 0; rank < 2; rank++) {
        fill_random(f[rank], COUNT, 77 + (uint64_t)rank);
        lt_convert_args narrow = {.x = lt_tensor_1d(f[rank], LT_F32, COUNT),
                                  .y = lt_tensor_1d(b[rank], LT_BF16, COUNT)};
        lt_convert_args widen = {.x = narrow.y, .y = narrow.x};
        CHECK_OK(lt_convert(comm->backend, &narrow, err));
        CHECK_OK(lt_convert(comm->backend, &widen, err));
    }
    for (int i = 0; i < COUNT; i++)
        sum[i] = f[0][i] + f[1][i];
    lt_convert_args round = {.x = lt_tensor_1d(sum, LT_F32, COUNT),
                             .y = lt_tensor_1d(expected, LT_BF16, COUNT)};
    CHECK_OK(lt_convert(comm->backend, &round, err));
    uint16_t *mine = b[comm->rank];
    CHECK_OK(lt_comm_all_reduce(comm, lt_tensor_1d(mine, LT_BF16, COUNT), &ticket, err));
    CHECK_OK(lt_comm_wait(comm, &ticket, err));
    CHECK(memcmp(mine, expected, sizeof expected) == 0);
}

/* The same bits on all ranks and every time, of all-reduce and of reduce-scatter. */
static void check_determinism(lt_comm *comm)
{
    enum { PART = 5003, TIMES = 50 };
    int64_t count = (int64_t)PART * comm->size;
    size_t bytes = (size_t)count * sizeof(float);
    float *mine = malloc(bytes), *data = malloc(bytes), *first = malloc(bytes);
    lt_comm_ticket ticket;
    CHECK(mine && data && first);
    fill_random(mine, count, 5 + (uint64_t)comm->rank);
    for (int k = 0; k < TIMES; k++) {
        memcpy(data, mine, bytes);
        CHECK_OK(lt_comm_all_reduce(comm, lt_tensor_1d(data, LT_F32, count), &ticket, err));
        CHECK_OK(lt_comm_wait(comm, &ticket, err));
        if (k == 0) memcpy(first, data, bytes);
        CHECK(memcmp(first, data, bytes) == 0);
    }
    CHECK_OK(lt_comm_broadcast(comm, lt_tensor_1d(data, LT_F32, count), 0, &ticket, err));
    CHECK_OK(lt_comm_wait(comm, &ticket, err));
    CHECK(memcmp(first, data, bytes) == 0);
    for (int k = 0; k < TIMES; k++) {
        memcpy(data, mine, bytes);
        lt_tensor all = lt_tensor_1d(data, LT_F32, count);
        lt_tensor own = lt_tensor_slice(all, 0, (int64_t)comm->rank * PART, PART);
        CHECK_OK(lt_comm_reduce_scatter(comm, all, own, &ticket, err));
        CHECK_OK(lt_comm_wait(comm, &ticket, err));
        if (k == 0) memcpy(first, own.data, PART * sizeof(float));
        CHECK(memcmp(first, own.data, PART * sizeof(float)) == 0);
    }
    free(mine);
    free(data);
    free(first);
}

/* --- What is refused -----------------------------------------------------------------------------
 */

static void check_refusals(lt_comm *comm)
{
    int32_t data[16] = {0};
    lt_err err = {0};
    lt_comm_ticket ticket = {0};
    lt_tensor ints = lt_tensor_1d(data, LT_I32, 8), floats = lt_tensor_1d(data, LT_F32, 8);
    CHECK(lt_comm_all_reduce(comm, ints, &ticket, &err) == LT_ERR_USAGE);
    CHECK(strstr(err.message, "i32"));
    CHECK(lt_comm_reduce_scatter(comm, ints, ints, &ticket, &err) == LT_ERR_USAGE);
    lt_tensor less = lt_tensor_1d(data, LT_F32, 5);
    CHECK(lt_comm_reduce_scatter(comm, floats, less, &ticket, &err) == LT_ERR_USAGE);
    CHECK(lt_comm_all_gather(comm, less, floats, &ticket, &err) == LT_ERR_USAGE);
    CHECK(strstr(err.message, "parts"));
    CHECK(lt_comm_broadcast(comm, floats, comm->size, &ticket, &err) == LT_ERR_USAGE);
    lt_tensor strided = {
        .data = data, .dtype = LT_F32, .ndim = 2, .shape = {2, 2}, .stride = {4, 1}};
    CHECK(lt_comm_all_reduce(comm, strided, &ticket, &err) == LT_ERR_USAGE);
    CHECK(lt_comm_all_reduce(comm, lt_tensor_1d(data, LT_F32, 0), &ticket, &err) == LT_OK);
    CHECK(ticket.sequence == 0);
    CHECK(lt_comm_wait(comm, &ticket, &err) == LT_OK);
}

static void check_all(lt_comm *comm)
{
    check_every_collective(comm, COUNT_OF(counts));
    check_many_in_flight(comm);
    check_one_after_the_other(comm);
    check_determinism(comm);
    check_refusals(comm);
}

/* --- Ranks ---------------------------------------------------------------------------------------
 */

static int be_a_rank(void)
{
    lt_backend *backend = NULL;
    CHECK_OK(lt_backend_create(&(lt_backend_settings){.threads = 1}, &backend, err));
    lt_comm *comm = open_rank(backend, 20, "", NULL);
    CHECK(strcmp(lt_comm_name(comm), "mpi") == 0);
    check_all(comm);
    if (comm->size == 2) check_bf16_rounding(comm);

    size_t usual = comm->piece_bytes;
    comm->piece_bytes = 1000; /* several pieces, the last one short */
    check_every_collective(comm, COUNT_OF(counts) - 1);
    comm->piece_bytes = usual;
    lt_backend device = *backend;
    device.device = LT_DEVICE_CUDA;
    device.upload = guarded_upload;
    device.download = guarded_download;
    comm->backend = &device;
    check_every_collective(comm, COUNT_OF(counts));
    comm->backend = backend;
    CHECK_OK(lt_comm_check_sequence(comm, err));
    lt_comm_close(comm);
    lt_backend_free(backend);
    return 0;
}

static void several_processes(void **state)
{
    (void)state;
    if (mpi_is_missing()) skip();
    for (int ranks = 2; ranks <= MOST_RANKS; ranks++)
        assert_int_equal(run_part("collectives", ranks, NULL), 0);
}

/* --- One process
 * ---------------------------------------------------------------------------------- */

static void one_process(void **state)
{
    (void)state;
    lt_backend *backend = NULL;
    CHECK_OK(lt_backend_create(&(lt_backend_settings){.threads = 1}, &backend, err));
    lt_comm_settings settings = {.place = {.world_size = 1}, .backend = backend, .timeout = 1};
    lt_comm *comm = NULL;
    CHECK_OK(lt_comm_choose(&settings.place, backend, &settings.kind, err));
    assert_int_equal(settings.kind, LT_COMM_SINGLE);
    CHECK_OK(lt_comm_open(&settings, &comm, err));
    assert_string_equal(lt_comm_name(comm), "single");
    assert_int_equal(lt_comm_size(comm), 1);
    check_all(comm);
    lt_comm_close(comm);
    lt_comm_close(NULL);
    lt_backend_free(backend);
}

int main(void)
{
    if (getenv("LATHE_TEST_PART")) return be_a_rank();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_process),
        cmocka_unit_test(several_processes),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    return failed ? failed : mpi_is_missing() ? 77 : 0;
}
