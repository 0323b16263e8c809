/* The TCP rendezvous, with processes over the loopback: who is let in and who is refused, late
 * ones, strangers, deaths and good-byes.
 *
 * With arguments it is one rank of a rendezvous by itself, for tests/net/two_hosts.sh:
 *     test_rendezvous RANK WORLD_SIZE ADDRESS PORT IDENTITY DEADLINE SECONDS
 * prints "joined" and the payload, or "refused" and why; stays for SECONDS; prints "lost" and why
 * when another rank goes away, else leaves with a good-bye. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "train/comm/rendezvous.h"

enum { MOST = 5, PAYLOAD = 128 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void pause_for(double seconds)
{
    struct timespec t = {.tv_sec = (time_t)seconds};
    t.tv_nsec = (long)(1e9 * (seconds - (double)t.tv_sec));
    nanosleep(&t, NULL);
}

/* --- Ranks, each in a process of its own ------------------------------------------------------ */

/* What a rank is told to do, and in memory that is shared with it, what came of it. */
typedef struct rank {
    int number, world_size;
    const char *version, *identity, *address;
    double deadline, late; /* seconds; it comes that late */
    double stays;          /* seconds, then it leaves; it does not leave when something is lost */
    bool fails;            /* instead of leaving, with a message */
    atomic_bool stop;      /* it is told to, while it waits */
    pid_t pid;
    atomic_int done;  /* 1: opened, or refused */
    lt_status status; /* of opening */
    char message[1024];
    char payload[PAYLOAD];
    int strangers;
    atomic_int lost; /* how often */
    char lost_message[1100];
    double lost_at;
    atomic_int left;
} rank;

static rank *ranks; /* [MOST], shared */
static rank *me;    /* of them, in the process of a rank */
static int port;
static const char *port_name;

static bool told_to_stop(void)
{
    return atomic_load(&me->stop);
}

static void on_lost(void *context, const char *message)
{
    rank *r = context;
    snprintf(r->lost_message, sizeof r->lost_message, "%s", message);
    r->lost_at = now();
    atomic_fetch_add(&r->lost, 1);
}

static void run_rank(rank *r)
{
    lt_rendezvous *rendezvous = NULL;
    lt_err err = {0};
    char host[32];
    snprintf(host, sizeof host, "host%d", r->number);
    const lt_rendezvous_settings settings = {.rank = r->number,
                                             .world_size = r->world_size,
                                             .host = host,
                                             .address = r->address,
                                             .port = port,
                                             .port_name = port_name,
                                             .version = r->version,
                                             .identity = r->identity,
                                             .deadline = r->deadline,
                                             .stopped = told_to_stop,
                                             .lost = on_lost,
                                             .context = r};
    me = r;
    pause_for(r->late);
    if (r->number == 0) memset(r->payload, 'p', sizeof r->payload);
    r->status = lt_rendezvous_open(&settings, r->payload, sizeof r->payload, &rendezvous, &err);
    memcpy(r->message, err.message, sizeof r->message);
    if (rendezvous) r->strangers = lt_rendezvous_strangers(rendezvous);
    atomic_store(&r->done, 1);
    if (!rendezvous) _exit(1);
    for (double end = now() + r->stays; now() < end && !atomic_load(&r->lost);)
        pause_for(0.01);
    if (r->fails) {
        lt_rendezvous_fail(rendezvous, "the loss is not finite");
        _exit(1);
    }
    lt_rendezvous_close(rendezvous);
    atomic_store(&r->left, 1);
    _exit(0);
}

static int free_port(void)
{
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT};
    struct sockaddr_in four = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0) {
        getsockname(fd, (struct sockaddr *)&address, &size);
        close(fd);
        return ntohs(address.sin6_port);
    }
    if (fd >= 0) close(fd);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    size = sizeof four;
    assert_int_equal(bind(fd, (struct sockaddr *)&four, sizeof four), 0);
    getsockname(fd, (struct sockaddr *)&four, &size);
    close(fd);
    return ntohs(four.sin_port);
}

static int prepare(void **state)
{
    (void)state;
    ranks =
        mmap(NULL, MOST * sizeof *ranks, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (ranks == MAP_FAILED) return -1;
    for (int i = 0; i < MOST; i++)
        ranks[i] = (rank){.number = i,
                          .world_size = 1,
                          .version = "1.0",
                          .identity = "model: m\nlearning_rate: 0.1\nseed: 1\n",
                          .address = "127.0.0.1",
                          .deadline = 20,
                          .stays = 30};
    port = free_port();
    return 0;
}

static void start(int i)
{
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) run_rank(&ranks[i]);
    ranks[i].pid = pid;
}

static void start_all(int count)
{
    for (int i = 0; i < count; i++)
        ranks[i].world_size = count;
    for (int i = 0; i < count; i++)
        start(i);
}

/* Whatever is still running when a test has failed, too. */
static int clean_up(void **state)
{
    (void)state;
    for (int i = 0; i < MOST; i++) {
        if (ranks[i].pid <= 0) continue;
        kill(ranks[i].pid, SIGKILL);
        waitpid(ranks[i].pid, NULL, 0);
    }
    munmap(ranks, MOST * sizeof *ranks);
    return 0;
}

static void wait_until(atomic_int *flag, double seconds, const char *what)
{
    double end = now() + seconds;
    while (!atomic_load(flag)) {
        if (now() > end) fail_msg("%s: not within %.1f s", what, seconds);
        pause_for(0.005);
    }
}

static void wait_for_opening(int first, int end)
{
    for (int i = first; i < end; i++)
        wait_until(&ranks[i].done, 25, "opening");
}

static void assert_joined(int count)
{
    wait_for_opening(0, count);
    for (int i = 0; i < count; i++) {
        if (ranks[i].status != LT_OK) fail_msg("rank %d: %s", i, ranks[i].message);
        for (int j = 0; j < PAYLOAD; j++)
            assert_int_equal(ranks[i].payload[j], 'p');
    }
}

/* All of them, with the same message, and `words` in it. */
static void assert_refused(int count, lt_status status, const char *const words[])
{
    wait_for_opening(0, count);
    for (int i = 0; i < count; i++) {
        if (ranks[i].status != status)
            fail_msg("rank %d: %d: %s", i, (int)ranks[i].status, ranks[i].message);
        assert_string_equal(ranks[i].message, ranks[0].message);
    }
    for (; *words; words++)
        if (!strstr(ranks[0].message, *words))
            fail_msg("'%s' is not in: %s", *words, ranks[0].message);
}

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

/* --- Joining and leaving ---------------------------------------------------------------------- */

/* All join, the next one leaves `between` seconds later, and none takes it for a death. */
static void join_and_leave(int count, double between)
{
    for (int i = 0; i < count; i++) {
        ranks[i].done = ranks[i].left = 0;
        ranks[i].stays = between * i;
        memset(ranks[i].payload, 0, PAYLOAD);
    }
    port = free_port();
    start_all(count);
    assert_joined(count);
    for (int i = 0; i < count; i++)
        wait_until(&ranks[i].left, 10, "leaving");
    for (int i = 0; i < count; i++) {
        if (ranks[i].lost) fail_msg("rank %d lost: %s", i, ranks[i].lost_message);
        waitpid(ranks[i].pid, NULL, 0);
        ranks[i].pid = 0;
    }
}

static void test_all_join_and_leave(void **state)
{
    (void)state;
    for (int count = 1; count <= MOST; count++)
        join_and_leave(count, 0.03);
}

/* Good-byes that cross. */
static void test_all_leave_at_once(void **state)
{
    enum { ROUNDS = 40 };
    (void)state;
    for (int i = 0; i < ROUNDS; i++)
        join_and_leave(3, 0);
}

static void test_late_ranks(void **state)
{
    (void)state;
    ranks[0].late = 0.4; /* the others find nobody at first */
    ranks[2].late = 0.7;
    ranks[1].address = "localhost";
    start_all(3);
    assert_joined(3);
}

static void test_ipv6(void **state)
{
    (void)state;
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    struct sockaddr_in6 loopback = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    bool there = fd >= 0 && bind(fd, (struct sockaddr *)&loopback, sizeof loopback) == 0;
    if (fd >= 0) close(fd);
    if (!there) skip();
    ranks[1].address = "::1";
    start_all(3);
    assert_joined(3);
}

/* --- Ranks that do not fit together ----------------------------------------------------------- */

static void test_other_settings(void **state)
{
    (void)state;
    ranks[2].identity = "model: m\nlearning_rate: 0.2\nseed: 2\n";
    start_all(3);
    assert_refused(3, LT_ERR_USAGE,
                   WORDS("rank 2 (host2) has learning_rate: 0.2", "rank 0 (host0) has "
                                                                  "learning_rate: 0.1"));
    assert_null(strstr(ranks[0].message, "seed"));
}

static void test_missing_setting(void **state)
{
    (void)state;
    ranks[1].identity = "model: m\nlearning_rate: 0.1\n";
    start_all(2);
    assert_refused(2, LT_ERR_USAGE, WORDS("rank 1 (host1) has nothing more", "seed: 1"));
}

static void test_other_version(void **state)
{
    (void)state;
    ranks[1].version = "1.1";
    start_all(3);
    assert_refused(3, LT_ERR_USAGE, WORDS("1.0 on rank 0 (host0)", "1.1 on rank 1 (host1)"));
}

static void test_other_world_size(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++)
        ranks[i].world_size = i == 1 ? 4 : 3;
    for (int i = 0; i < 3; i++)
        start(i);
    assert_refused(3, LT_ERR_USAGE, WORDS("WORLD_SIZE is 3 on rank 0", "4 on rank 1 (host1)"));
}

static void test_rank_out_of_range(void **state)
{
    (void)state;
    ranks[1].number = 7;
    start_all(2);
    assert_refused(2, LT_ERR_USAGE, WORDS("RANK is 7 on host7", "0 to 1"));
}

static void test_double_rank(void **state)
{
    (void)state;
    ranks[2].number = 1;
    start_all(3);
    assert_refused(3, LT_ERR_USAGE, WORDS("two processes are rank 1", "host1"));
}

static void test_rank_that_never_comes(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        ranks[i].world_size = 4;
        ranks[i].deadline = 1;
        start(i);
    }
    assert_refused(2, LT_ERR_IO, WORDS("2 of 4 processes did not come", "rank 2, 3;", "host0"));
}

static void test_rank_0_never_comes(void **state)
{
    char where[64];
    (void)state;
    ranks[1].world_size = 2;
    ranks[1].deadline = 0.6;
    start(1);
    wait_for_opening(1, 2);
    snprintf(where, sizeof where, "127.0.0.1 port %d", port);
    assert_int_equal(ranks[1].status, LT_ERR_IO);
    assert_non_null(strstr(ranks[1].message, where));
    assert_non_null(strstr(ranks[1].message, "refused"));
}

/* A rank that waits for one that never comes can be told to leave: before rank 0 is there, while it
 * has no answer from it, and rank 0 itself, which takes those that have come along. */
static void test_told_to_stop(void **state)
{
    (void)state;
    for (int i = 0; i < MOST; i++)
        ranks[i].world_size = MOST;
    start(1);
    pause_for(0.1);
    atomic_store(&ranks[1].stop, true);
    wait_until(&ranks[1].done, 2, "rank 1, which finds nobody");
    for (int i = 0; i < MOST; i++)
        if (i == 0 || i > 2) start(i);
    pause_for(0.3);
    atomic_store(&ranks[3].stop, true);
    wait_until(&ranks[3].done, 2, "rank 3, which waits for an answer");
    atomic_store(&ranks[0].stop, true);
    wait_until(&ranks[0].done, 2, "rank 0");
    wait_until(&ranks[4].done, 2, "rank 4, which is not told to stop itself");
    for (int i = 0; i < MOST; i++) {
        char words[64];
        if (i == 2) continue; /* never came */
        int stopped = i == 4 ? 0 : i;
        snprintf(words, sizeof words, "rank %d (host%d) was told to stop", stopped, stopped);
        assert_int_equal(ranks[i].status, LT_ERR_INTERRUPTED);
        if (!strstr(ranks[i].message, words)) fail_msg("rank %d: %s", i, ranks[i].message);
    }
}

/* --- Settings that make no sense -------------------------------------------------------------- */

static void assert_bad_settings(const char *address, int its_port, const char *word)
{
    lt_rendezvous *rendezvous = NULL;
    lt_err err = {0};
    char payload[PAYLOAD] = {0};
    const lt_rendezvous_settings settings = {.rank = 1,
                                             .world_size = 2,
                                             .host = "here",
                                             .address = address,
                                             .port = its_port,
                                             .version = "1.0",
                                             .identity = "",
                                             .deadline = 0.5,
                                             .lost = on_lost};
    assert_int_equal(lt_rendezvous_open(&settings, payload, sizeof payload, &rendezvous, &err),
                     LT_ERR_USAGE);
    assert_null(rendezvous);
    if (!strstr(err.message, word)) fail_msg("'%s' is not in: %s", word, err.message);
}

static void test_bad_settings(void **state)
{
    (void)state;
    assert_bad_settings("", 29500, "MASTER_ADDR is not set");
    assert_bad_settings("127.0.0.1", 0, "MASTER_PORT is not set");
    assert_bad_settings("127.0.0.1", 70000, "MASTER_PORT is 70000");
    assert_bad_settings("no.such.host.invalid", 29500, "\"no.such.host.invalid\"");
}

static void expect_busy_port(const char *name)
{
    char words[48];
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 1), 0);
    port_name = name;
    ranks[0].world_size = 2;
    ranks[0].done = 0;
    start(0);
    wait_for_opening(0, 1);
    close(fd);
    snprintf(words, sizeof words, "port %d (%s)", port, name ? name : "MASTER_PORT");
    assert_refused(1, LT_ERR_USAGE, WORDS(words, "in use", "choose another MASTER_PORT"));
}

static void test_busy_port(void **state)
{
    (void)state;
    expect_busy_port("MASTER_PORT + 1000");
    waitpid(ranks[0].pid, NULL, 0);
    expect_busy_port(NULL);
}

/* --- Strangers -------------------------------------------------------------------------------- */

static int connect_stranger(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (double end = now() + 10; now() < end; pause_for(0.02)) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0) return fd;
        close(fd);
    }
    fail_msg("rank 0 does not listen");
    return -1;
}

/* A port scanner, a browser, one whose hello is too long, one that is damaged, and one that sends
 * the start of a hello and then nothing. */
static void test_strangers(void **state)
{
    char web[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", hello[64] = "LATHERDV\1";
    (void)state;
    ranks[0].world_size = ranks[1].world_size = 2;
    start(0);
    close(connect_stranger());
    int browser = connect_stranger();
    send(browser, web, sizeof web, MSG_NOSIGNAL);
    int endless = connect_stranger();
    memset(hello + 12, 0xff, sizeof hello - 12);
    send(endless, hello, sizeof hello, MSG_NOSIGNAL);
    int damaged = connect_stranger();
    memset(hello + 12, 0, sizeof hello - 12);
    hello[24] = 3; /* a host of 3 bytes, and a hash of 0 */
    send(damaged, hello, 44 + 3, MSG_NOSIGNAL);
    int slow = connect_stranger();
    send(slow, hello, 5, MSG_NOSIGNAL);
    for (int i = 0; i < 80; i++) /* more than are looked at at a time; they say nothing */
        (void)connect_stranger();
    pause_for(0.3);
    start(1);
    assert_joined(2);
    assert_true(ranks[0].strangers >= 4);
    for (int fd = browser; fd < browser + 90; fd++)
        close(fd);
}

/* Something else answers at the port, then goes, and rank 0 comes. */
static void test_other_server(void **state)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int on = 1;
    (void)state;
    ranks[0].world_size = ranks[1].world_size = 2;
    start(1); /* before there is a socket that it would inherit */
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fd, 8), 0);
    int client = accept(fd, NULL, NULL);
    send(client, "220 mail.example.org ESMTP\r\n", 28, MSG_NOSIGNAL);
    pause_for(0.1);
    close(client);
    close(fd);
    start(0);
    assert_joined(2);
}

/* --- Deaths ----------------------------------------------------------------------------------- */

static void assert_all_hear(int count, int except, double since, const char *words)
{
    const char *first = ranks[except == 0 ? 1 : 0].lost_message;
    for (int i = 0; i < count; i++) {
        if (i == except) continue;
        wait_until(&ranks[i].lost, 2, "hearing of a death");
        assert_true(ranks[i].lost_at - since < 2);
        assert_string_equal(ranks[i].lost_message, first);
    }
    if (!strstr(first, words)) fail_msg("'%s' is not in: %s", words, first);
    pause_for(0.05);
    for (int i = 0; i < count; i++)
        if (i != except) assert_int_equal(ranks[i].lost, 1);
}

static void test_death(void **state)
{
    (void)state;
    start_all(4);
    assert_joined(4);
    double since = now();
    kill(ranks[2].pid, SIGKILL);
    assert_all_hear(4, 2, since, "rank 2 (host2) is gone");
}

static void test_death_of_rank_0(void **state)
{
    (void)state;
    start_all(3);
    assert_joined(3);
    double since = now();
    kill(ranks[0].pid, SIGKILL);
    assert_all_hear(3, 0, since, "rank 0 (host0) is gone");
}

static void test_failure_is_told(void **state)
{
    (void)state;
    for (int failing = 0; failing < 2; failing++) {
        for (int i = 0; i < 3; i++)
            ranks[i].done = ranks[i].lost = 0;
        ranks[failing].fails = true;
        ranks[failing].stays = 0.1;
        port = free_port();
        start_all(3);
        assert_joined(3);
        assert_all_hear(3, failing, now(), "the loss is not finite");
        for (int i = 0; i < 3; i++) {
            kill(ranks[i].pid, SIGKILL);
            waitpid(ranks[i].pid, NULL, 0);
            ranks[i].pid = 0;
        }
        ranks[failing].fails = false;
        ranks[failing].stays = 30;
    }
}

/* A process that stands still has not died: that is for the watchdog to judge. */
static void test_stopped_is_not_dead(void **state)
{
    (void)state;
    start_all(2);
    assert_joined(2);
    kill(ranks[1].pid, SIGSTOP);
    pause_for(0.5);
    assert_int_equal(ranks[0].lost, 0);
    kill(ranks[1].pid, SIGCONT);
}

/* --- One rank by itself ----------------------------------------------------------------------- */

static void print_loss(void *context, const char *message)
{
    (void)context;
    printf("lost %s\n", message);
    fflush(NULL);
    _exit(3);
}

static int be_one_rank(char **arguments)
{
    lt_rendezvous *rendezvous = NULL;
    lt_err err = {0};
    char host[64] = "", payload[PAYLOAD] = "";
    gethostname(host, sizeof host - 1);
    const lt_rendezvous_settings settings = {.rank = atoi(arguments[0]),
                                             .world_size = atoi(arguments[1]),
                                             .host = host,
                                             .address = arguments[2],
                                             .port = atoi(arguments[3]),
                                             .version = LATHE_VERSION,
                                             .identity = arguments[4],
                                             .deadline = atof(arguments[5]),
                                             .lost = print_loss};
    if (settings.rank == 0) snprintf(payload, sizeof payload, "the id of rank 0");
    if (lt_rendezvous_open(&settings, payload, sizeof payload, &rendezvous, &err) != LT_OK) {
        printf("refused %s\n", err.message);
        return 1;
    }
    printf("joined %s\n", payload);
    fflush(NULL);
    pause_for(atof(arguments[6]));
    lt_rendezvous_close(rendezvous);
    printf("left\n");
    return 0;
}

int main(int argc, char **argv)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, prepare, clean_up)
    const struct CMUnitTest tests[] = {
        CASE(test_all_join_and_leave),
        CASE(test_all_leave_at_once),
        CASE(test_late_ranks),
        CASE(test_ipv6),
        CASE(test_other_settings),
        CASE(test_missing_setting),
        CASE(test_other_version),
        CASE(test_other_world_size),
        CASE(test_rank_out_of_range),
        CASE(test_double_rank),
        CASE(test_rank_that_never_comes),
        CASE(test_rank_0_never_comes),
        CASE(test_told_to_stop),
        CASE(test_bad_settings),
        CASE(test_busy_port),
        CASE(test_strangers),
        CASE(test_other_server),
        CASE(test_death),
        CASE(test_death_of_rank_0),
        CASE(test_failure_is_told),
        CASE(test_stopped_is_not_dead),
    };
#undef CASE
    if (argc == 8) return be_one_rank(argv + 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
