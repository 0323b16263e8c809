/* The second queue of a GPU, and the communicator over NCCL: on the emulated GPU with a library
 * that stands in for NCCL (nccl/nccl_emulated.cpp), for one process and for two, which find each
 * other by the TCP rendezvous; on a real GPU with the real library, for one process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kernels/queue.h"
#include "train/comm/comm.h"
#include "train/comm/internal.h"

/* In a process that a test has forked: there is no test to fail there, it just ends. */
static bool is_child;

#define FAIL(...)                             \
    do {                                      \
        if (!is_child) fail_msg(__VA_ARGS__); \
        fprintf(stderr, __VA_ARGS__);         \
        _exit(1);                             \
    } while (0)

#define CHECK(condition)                                  \
    do {                                                  \
        if (!(condition)) FAIL("not so: %s", #condition); \
    } while (0)

#define OK(call)                                                       \
    do {                                                               \
        lt_err failure_ = {0}, *err = &failure_;                       \
        lt_status status_ = (call);                                    \
        if (status_ != LT_OK) FAIL("%s: %s", #call, failure_.message); \
    } while (0)

static lt_backend *make_gpu(void)
{
    lt_backend *backend = NULL;
    OK(lt_backend_create(&(lt_backend_settings){.device = LT_DEVICE_CUDA}, &backend, err));
    return backend;
}

/* --- The queue -------------------------------------------------------------------------------- */

static void test_marks(void **state)
{
    lt_backend *gpu = make_gpu();
    lt_queue *queue = NULL;
    lt_err problem = {0};
    uint64_t mark = 0, before = 0;
    bool reached = false;
    (void)state;
    OK(lt_queue_create(gpu, &queue, err));
    assert_non_null(lt_queue_native(queue));
    OK(lt_queue_reached(queue, 0, &reached, err));
    assert_true(reached);
    OK(lt_operations_wait_for(queue, 0, err));
    assert_int_equal(lt_operations_wait_for(queue, 1, &problem), LT_ERR_USAGE);
    assert_non_null(strstr(problem.message, "mark 1"));
    for (int i = 0; i < 3 * LT_QUEUE_MARKS; i++) {
        OK(lt_queue_wait_for_operations(queue, err));
        OK(lt_queue_mark(queue, &mark, err));
        assert_int_equal(mark, before + 1);
        before = mark;
    }
    OK(lt_operations_wait_for(queue, mark, err));
    OK(gpu->synchronize(gpu, err)); /* and so for the queue */
    OK(lt_queue_reached(queue, mark, &reached, err));
    assert_true(reached);
    OK(lt_queue_reached(queue, 1, &reached, err));
    assert_true(reached);
    lt_queue_free(queue);
    lt_queue_free(NULL);
    lt_backend_free(gpu);
}

static void test_no_queue_on_a_cpu(void **state)
{
    lt_backend *cpu = NULL;
    lt_queue *queue = NULL;
    lt_err problem = {0};
    (void)state;
    OK(lt_backend_create(&(lt_backend_settings){.device = LT_DEVICE_CPU}, &cpu, err));
    assert_int_equal(lt_queue_create(cpu, &queue, &problem), LT_ERR_UNSUPPORTED);
    assert_null(queue);
    lt_backend_free(cpu);
}

/* --- One rank --------------------------------------------------------------------------------- */

typedef struct rank {
    int number, size, port;
    const char *identity;
    double timeout;
    lt_backend *gpu;
    lt_comm *comm;
} rank;

static lt_status open_rank(rank *r, lt_err *err)
{
    lt_comm_settings settings = {
        .place = {.launcher = LT_LAUNCHER_TORCHRUN,
                  .rank = r->number,
                  .world_size = r->size,
                  .local_rank = r->number,
                  .local_size = r->size,
                  .master_address = "127.0.0.1",
                  .master_port = r->port},
        .kind = LT_COMM_NCCL,
        .identity = r->identity ? r->identity : "seed: 1\n",
        .timeout = r->timeout,
    };
    snprintf(settings.place.host, sizeof settings.place.host, "host%d", r->number);
    r->gpu = make_gpu();
    settings.backend = r->gpu;
    return lt_comm_open(&settings, &r->comm, err);
}

static void close_rank(rank *r)
{
    lt_comm_close(r->comm);
    lt_backend_free(r->gpu);
}

enum { PART = 20000 }; /* elements; more than pass at a time between emulated ranks */

/* Element i of a rank's tensor: small numbers, which add exactly, also in bf16. */
static double value_of(int number, int64_t i)
{
    return (double)((i + 3 * number) % 11) - 4;
}

static double sum_of(int size, int64_t i)
{
    double sum = 0;
    for (int number = 0; number < size; number++)
        sum += value_of(number, i);
    return sum;
}

static void put(void *data, lt_dtype dtype, int64_t i, double value)
{
    float narrow = (float)value;
    uint32_t bits;
    memcpy(&bits, &narrow, sizeof bits);
    if (dtype == LT_F64) ((double *)data)[i] = value;
    if (dtype == LT_F32) ((float *)data)[i] = narrow;
    if (dtype == LT_BF16) ((uint16_t *)data)[i] = (uint16_t)(bits >> 16);
    if (dtype == LT_U8) ((uint8_t *)data)[i] = (uint8_t)(value + 100);
}

static double look(const void *data, lt_dtype dtype, int64_t i)
{
    uint32_t bits = dtype == LT_BF16 ? (uint32_t)((const uint16_t *)data)[i] << 16 : 0;
    float narrow;
    memcpy(&narrow, &bits, sizeof narrow);
    if (dtype == LT_F64) return ((const double *)data)[i];
    if (dtype == LT_F32) return (double)((const float *)data)[i];
    return dtype == LT_BF16 ? (double)narrow : ((const uint8_t *)data)[i] - 100.0;
}

/* A tensor of `count`, whose element i is value_of(number, i + offset). */
static lt_tensor make_tensor(const rank *r, lt_dtype dtype, int64_t count, int64_t offset)
{
    size_t bytes = (size_t)count * lt_dtype_size(dtype);
    void *data = r->gpu->memory.allocate(r->gpu->memory.context, bytes), *host = malloc(bytes);
    CHECK(data);
    CHECK(host);
    for (int64_t i = 0; i < count; i++)
        put(host, dtype, i, value_of(r->number, i + offset));
    OK(r->gpu->upload(r->gpu, data, host, bytes, err));
    free(host);
    return lt_tensor_1d(data, dtype, count);
}

static void free_tensor(const rank *r, lt_tensor t)
{
    r->gpu->memory.release(r->gpu->memory.context, t.data,
                           (size_t)lt_tensor_count(t) * lt_dtype_size(t.dtype));
}

/* Element i is expected(argument, i + offset). */
static void assert_values(const rank *r, lt_tensor t, double (*expected)(int, int64_t),
                          int argument, int64_t offset, const char *what)
{
    int64_t count = lt_tensor_count(t);
    size_t bytes = (size_t)count * lt_dtype_size(t.dtype);
    void *host = malloc(bytes);
    CHECK(host);
    OK(r->gpu->download(r->gpu, host, t.data, bytes, err));
    for (int64_t i = 0; i < count; i++)
        if (look(host, t.dtype, i) != expected(argument, i + offset))
            FAIL("rank %d: %s of %s: element %lld is %g, not %g", r->number, what,
                 lt_dtype_name(t.dtype), (long long)i, look(host, t.dtype, i),
                 expected(argument, i + offset));
    free(host);
}

/* Each once, into other memory and in place. */
static void check_sums(const rank *r, lt_dtype dtype)
{
    lt_comm_ticket ticket = {0}, other = {0};
    int64_t mine = (int64_t)r->number * PART;
    lt_tensor all = make_tensor(r, dtype, PART, 0);
    lt_tensor whole = make_tensor(r, dtype, (int64_t)r->size * PART, 0);
    lt_tensor part = make_tensor(r, dtype, PART, 0);
    OK(lt_comm_all_reduce(r->comm, all, &ticket, err));
    OK(lt_comm_reduce_scatter(r->comm, whole, part, &other, err));
    OK(lt_comm_wait(r->comm, &other, err)); /* not in their order */
    OK(lt_comm_wait(r->comm, &ticket, err));
    assert_values(r, all, sum_of, r->size, 0, "all_reduce");
    assert_values(r, part, sum_of, r->size, mine, "reduce_scatter");
    lt_tensor inside = lt_tensor_slice(whole, 0, mine, PART);
    OK(lt_comm_reduce_scatter(r->comm, whole, inside, &ticket, err));
    OK(lt_comm_wait(r->comm, &ticket, err));
    assert_values(r, inside, sum_of, r->size, mine, "reduce_scatter in place");
    free_tensor(r, all);
    free_tensor(r, whole);
    free_tensor(r, part);
}

static double value_by_part(int number, int64_t i)
{
    (void)number;
    return value_of((int)(i / PART), i % PART);
}

static void check_copies(const rank *r, lt_dtype dtype)
{
    lt_comm_ticket ticket = {0};
    int root = r->size - 1;
    lt_tensor part = make_tensor(r, dtype, PART, 0);
    lt_tensor whole = make_tensor(r, dtype, (int64_t)r->size * PART, 1);
    OK(lt_comm_all_gather(r->comm, part, whole, &ticket, err));
    OK(lt_comm_wait(r->comm, &ticket, err));
    assert_values(r, whole, value_by_part, 0, 0, "all_gather");
    OK(lt_comm_all_gather(r->comm, lt_tensor_slice(whole, 0, (int64_t)r->number * PART, PART),
                          whole, &ticket, err));
    OK(lt_comm_wait(r->comm, &ticket, err));
    assert_values(r, whole, value_by_part, 0, 0, "all_gather in place");
    OK(lt_comm_broadcast(r->comm, part, root, &ticket, err));
    OK(lt_comm_wait(r->comm, &ticket, err));
    assert_values(r, part, value_of, root, 0, "broadcast");
    free_tensor(r, part);
    free_tensor(r, whole);
}

/* What comes before a collective is seen by it, and what comes after its wait sees it; what comes
 * between runs beside it. More of them than the queue has marks. */
static void check_order(const rank *r)
{
    enum { ROUNDS = 80, COUNT = 256 };
    lt_comm_ticket tickets[ROUNDS];
    lt_tensor all[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        all[i] = make_tensor(r, LT_F32, COUNT, 0);
        const lt_scale_args doubled = {.x = all[i], .y = all[i], .factor = 2};
        OK(lt_scale(r->gpu, &doubled, err));
        OK(lt_comm_all_reduce(r->comm, all[i], &tickets[i], err));
    }
    for (int i = ROUNDS; i-- > 0;) {
        OK(lt_comm_wait(r->comm, &tickets[i], err));
        const lt_scale_args halved = {.x = all[i], .y = all[i], .factor = 0.5};
        OK(lt_scale(r->gpu, &halved, err));
        assert_values(r, all[i], sum_of, r->size, 0, "all_reduce between operations");
        free_tensor(r, all[i]);
    }
}

static void check_host_values(const rank *r)
{
    enum { MANY = 20000 }; /* doubles and bytes that pass in several pieces */
    double *values = malloc(MANY * sizeof *values);
    char *text = malloc(MANY * 8), *shared = NULL, *all = malloc((size_t)r->size * MANY * 8);
    for (int i = 0; i < MANY; i++)
        values[i] = value_of(r->number, i);
    OK(lt_comm_sum(r->comm, values, MANY, err));
    for (int i = 0; i < MANY; i++)
        CHECK(values[i] == sum_of(r->size, i));
    values[0] = r->number;
    values[1] = -r->number;
    OK(lt_comm_max(r->comm, values, 2, err));
    CHECK(values[0] == r->size - 1 && values[1] == 0);
    memset(text, 'a' + r->number, MANY * 8);
    OK(lt_comm_gather_bytes(r->comm, text, MANY * 8, all, err));
    for (int number = 0; number < r->size; number++)
        for (int i = 0; i < MANY * 8; i++)
            CHECK(all[number * MANY * 8 + i] == 'a' + number);
    OK(lt_comm_share_text(r->comm, r->number == 0 ? "from rank 0" : "", &shared, err));
    CHECK(strcmp(shared, "from rank 0") == 0);
    OK(lt_comm_barrier(r->comm, err));
    OK(lt_comm_check_sequence(r->comm, err));
    free(values);
    free(text);
    free(all);
    free(shared);
}

/* What the watchdog's thread asks. */
static void check_polling(const rank *r)
{
    lt_buffer record = {0};
    lt_comm_ticket ticket = {0};
    lt_tensor all = make_tensor(r, LT_F32, 8, 0);
    OK(lt_comm_all_reduce(r->comm, all, &ticket, err));
    OK(lt_comm_wait(r->comm, &ticket, err));
    OK(r->gpu->synchronize(r->gpu, err));
    OK(r->comm->ops->poll(r->comm, err));
    OK(lt_comm_flight_record(r->comm, &record, err));
    CHECK(strstr(lt_buffer_text(&record), "all_reduce"));
    CHECK(!strstr(lt_buffer_text(&record), "not ended"));
    lt_buffer_free(&record);
    free_tensor(r, all);
}

static void check_all(rank *r)
{
    OK(open_rank(r, err));
    CHECK(strstr(lt_comm_name(r->comm), "nccl 2."));
    check_sums(r, LT_F32);
    check_sums(r, LT_F64);
    check_sums(r, LT_BF16);
    check_copies(r, LT_F32);
    check_copies(r, LT_U8);
    check_order(r);
    check_host_values(r);
    check_polling(r);
    close_rank(r);
}

static void test_one_process(void **state)
{
    rank r = {.size = 1};
    lt_err why = {0};
    (void)state;
    if (lt_comm_nccl_available(&why) != LT_OK) {
        print_message("%s\n", why.message);
        skip();
    }
    if (!getenv("NCCL_ALGO")) assert_non_null(getenv("NCCL_NVLS_ENABLE"));
    check_all(&r);
}

/* --- Two ranks -------------------------------------------------------------------------------- */

#ifdef LT_EMULATOR

static int free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    getsockname(fd, (struct sockaddr *)&address, &size);
    close(fd);
    return ntohs(address.sin_port);
}

/* Two processes, and what they write to standard error. */
typedef struct pair {
    pid_t pid[2];
    int output[2];
    int exit_code[2]; /* 128 + the signal, where one ended it */
    char said[2][8192];
} pair;

static pair start_pair(void (*body)(rank *), const char *identity_of_1, double timeout)
{
    pair p = {0};
    int port = free_port();
    fflush(NULL);
    for (int i = 0; i < 2; i++) {
        int ends[2];
        assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
        p.pid[i] = fork();
        assert_true(p.pid[i] >= 0);
        if (p.pid[i] == 0) {
            rank r = {.number = i, .size = 2, .port = port, .timeout = timeout};
            if (i == 1) r.identity = identity_of_1;
            is_child = true;
            dup2(ends[1], STDERR_FILENO);
            body(&r);
            exit(0);
        }
        close(ends[1]);
        p.output[i] = ends[0];
    }
    return p;
}

static void finish_pair(pair *p)
{
    for (int i = 0; i < 2; i++) {
        int status = 0;
        size_t length = 0;
        ssize_t got = 0;
        while (length < sizeof p->said[i] - 1 &&
               (got = read(p->output[i], p->said[i] + length, sizeof p->said[i] - 1 - length)) > 0)
            length += (size_t)got;
        close(p->output[i]);
        waitpid(p->pid[i], &status, 0);
        p->exit_code[i] = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    }
}

static void assert_ended(const pair *p, int number, int exit_code, const char *words)
{
    if (p->exit_code[number] != exit_code || !strstr(p->said[number], words))
        fail_msg("rank %d: exit code %d, not %d with '%s': %s", number, p->exit_code[number],
                 exit_code, words, p->said[number]);
}

static void test_two_processes(void **state)
{
    (void)state;
    if (lt_comm_nccl_available(NULL) != LT_OK) skip();
    pair p = start_pair(check_all, NULL, 60);
    finish_pair(&p);
    assert_ended(&p, 0, 0, "");
    assert_ended(&p, 1, 0, "");
}

static void be_refused(rank *r)
{
    lt_err problem = {0};
    lt_status status = open_rank(r, &problem);
    fprintf(stderr, "%s\n", problem.message);
    exit(status == LT_ERR_USAGE ? 9 : 1);
}

static void test_refusal(void **state)
{
    (void)state;
    if (lt_comm_nccl_available(NULL) != LT_OK) skip();
    pair p = start_pair(be_refused, "seed: 2\n", 60);
    finish_pair(&p);
    assert_ended(&p, 0, 9, "rank 1 (host1) has seed: 2, rank 0 (host0) has seed: 1");
    assert_string_equal(p.said[0], p.said[1]);
}

/* Collectives until something ends them. */
static void go_on(rank *r)
{
    lt_err problem = {0};
    lt_comm_ticket ticket = {0};
    OK(open_rank(r, err));
    lt_tensor all = make_tensor(r, LT_F32, 64, 0);
    for (int i = 0;; i++) {
        if (lt_comm_all_reduce(r->comm, all, &ticket, &problem) != LT_OK) break;
        if (lt_comm_wait(r->comm, &ticket, &problem) != LT_OK) break;
        if (lt_comm_barrier(r->comm, &problem) != LT_OK) break;
        if (i == 20 && r->number == 1) raise(SIGKILL);
    }
    lt_comm_abort(r->comm, problem.message, 5);
}

static void test_death(void **state)
{
    struct timespec from, to;
    (void)state;
    if (lt_comm_nccl_available(NULL) != LT_OK) skip();
    clock_gettime(CLOCK_MONOTONIC, &from);
    pair p = start_pair(go_on, NULL, 60);
    finish_pair(&p);
    clock_gettime(CLOCK_MONOTONIC, &to);
    assert_ended(&p, 1, 128 + SIGKILL, "");
    assert_ended(&p, 0, 1, "rank 1 (host1) is gone");
    assert_true(to.tv_sec - from.tv_sec < 10);
}

/* NCCL itself fails: the rank that hears of it first says so, and the other is ended with it. */
static void fail_on_rank_1(rank *r)
{
    if (r->number == 1) setenv("NCCL_EMULATED_FAIL", "30", 1);
    go_on(r);
}

static void test_failure(void **state)
{
    const char words[] = "remote process exited";
    (void)state;
    if (lt_comm_nccl_available(NULL) != LT_OK) skip();
    pair p = start_pair(fail_on_rank_1, NULL, 60);
    finish_pair(&p);
    assert_true(p.exit_code[0] != 0 && p.exit_code[1] != 0);
    if (!strstr(p.said[0], words) && !strstr(p.said[1], words))
        fail_msg("rank 0 says: %s; rank 1 says: %s", p.said[0], p.said[1]);
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
#ifdef LT_EMULATOR
        /* first: processes are forked while there is no GPU in this one */
        cmocka_unit_test(test_two_processes), cmocka_unit_test(test_refusal),
        cmocka_unit_test(test_death),         cmocka_unit_test(test_failure),
#endif
        cmocka_unit_test(test_marks),         cmocka_unit_test(test_no_queue_on_a_cpu),
        cmocka_unit_test(test_one_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
