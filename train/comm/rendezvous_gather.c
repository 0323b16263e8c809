/* Rank 0: waits until all ranks have said hello, judges whether they fit together, and answers them
 * all. Whoever connects is a stranger until its hello is whole, and has little time for that. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "train/comm/rendezvous_internal.h"

/* Seconds: for a hello to become whole; to wait, after ranks that do not fit together have come,
 * for the others, so that they hear of it too; to send an answer. */
#define HELLO_PATIENCE  5.0
#define GRACE           2.0
#define ANSWER_PATIENCE 5.0

enum { STRANGERS_AT_A_TIME = 64 };

/* A connection: of a stranger, or with `known` of a rank. */
typedef struct arrival {
    int fd;
    double since;
    lt_buffer bytes;
    bool known;
    lt_rendezvous_hello hello;
} arrival;

typedef struct gathering {
    const lt_rendezvous_settings *settings;
    lt_rendezvous_hello mine;
    int listener;
    arrival *arrivals; /* [capacity] */
    struct pollfd *polled;
    int count, capacity;
    int known;           /* of them */
    double misfit_since; /* 0: all fit together so far */
    int strangers;       /* that were sent away */
} gathering;

/* --- Coming and going ------------------------------------------------------------------------- */

static void forget(arrival *a)
{
    if (a->fd >= 0) close(a->fd);
    lt_buffer_free(&a->bytes);
    free(a->hello.identity);
}

static void drop(gathering *g, int i)
{
    if (g->arrivals[i].known)
        g->known--;
    else
        g->strangers++;
    forget(&g->arrivals[i]);
    g->arrivals[i] = g->arrivals[--g->count];
}

/* The stranger that has had the most time. */
static void drop_oldest_stranger(gathering *g)
{
    int oldest = -1;
    for (int i = 0; i < g->count; i++)
        if (!g->arrivals[i].known &&
            (oldest < 0 || g->arrivals[i].since < g->arrivals[oldest].since))
            oldest = i;
    drop(g, oldest >= 0 ? oldest : 0);
}

static void accept_all(gathering *g)
{
    int fd = -1;
    while ((fd = accept4(g->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        if (g->count == g->capacity) drop_oldest_stranger(g);
        lt_rendezvous_tune(fd);
        g->arrivals[g->count++] = (arrival){.fd = fd, .since = lt_rendezvous_now()};
    }
}

/* --- Hellos ----------------------------------------------------------------------------------- */

static bool rank_is_known(const gathering *g, uint32_t rank)
{
    for (int i = 0; i < g->count; i++)
        if (g->arrivals[i].known && g->arrivals[i].hello.rank == rank) return true;
    return false;
}

static void get_to_know(gathering *g, arrival *a)
{
    bool fits = lt_rendezvous_compare(&g->mine, &a->hello, NULL) == LT_OK &&
                !rank_is_known(g, a->hello.rank);
    if (!fits && g->misfit_since == 0) g->misfit_since = lt_rendezvous_now();
    a->known = true;
    g->known++;
    lt_buffer_free(&a->bytes);
}

/* False: it has closed, or is none of ours. */
static bool read_some(gathering *g, arrival *a)
{
    char piece[16384];
    size_t missing = a->known ? 1 : lt_rendezvous_hello_missing(a->bytes.data, a->bytes.size);
    ssize_t got = recv(a->fd, piece, missing < sizeof piece ? missing : sizeof piece, 0);
    if (got < 0) return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
    if (got == 0 || a->known) return false; /* a rank says nothing more before the answer */
    if (lt_buffer_append(&a->bytes, piece, (size_t)got, NULL) != LT_OK) return false;
    lt_rendezvous_parse parsed = lt_rendezvous_hello_read(a->bytes.data, a->bytes.size, &a->hello);
    if (parsed == RENDEZVOUS_DONE) get_to_know(g, a);
    return parsed != RENDEZVOUS_FOREIGN;
}

/* Waits a moment for something to come, and takes it. */
static void take_what_comes(gathering *g)
{
    enum { MILLISECONDS = 100 };
    int count = g->count;
    g->polled[0] = (struct pollfd){.fd = g->listener, .events = POLLIN};
    for (int i = 0; i < count; i++)
        g->polled[1 + i] = (struct pollfd){.fd = g->arrivals[i].fd, .events = POLLIN};
    if (poll(g->polled, (nfds_t)(1 + count), MILLISECONDS) < 0) return;
    double now = lt_rendezvous_now();
    for (int i = count; i-- > 0;) { /* backwards: drop moves the last one here */
        arrival *a = &g->arrivals[i];
        bool late = !a->known && now - a->since > HELLO_PATIENCE;
        if ((g->polled[1 + i].revents && !read_some(g, a)) || (late && !a->known)) drop(g, i);
    }
    if (g->polled[0].revents) accept_all(g);
}

/* --- Judging ---------------------------------------------------------------------------------- */

/* Of those that do not fit, the lowest rank: so the message does not depend on who came first. */
static lt_status find_misfit(const gathering *g, lt_err *err)
{
    const arrival *worst = NULL;
    for (int i = 0; i < g->count; i++) {
        const arrival *a = &g->arrivals[i];
        if (!a->known || lt_rendezvous_compare(&g->mine, &a->hello, NULL) == LT_OK) continue;
        if (!worst || a->hello.rank < worst->hello.rank) worst = a;
    }
    return worst ? lt_rendezvous_compare(&g->mine, &worst->hello, err) : LT_OK;
}

static lt_status find_double(const gathering *g, lt_err *err)
{
    const arrival *first = NULL, *second = NULL;
    for (int i = 0; i < g->count; i++)
        for (int j = i + 1; j < g->count; j++) {
            const arrival *a = &g->arrivals[i], *b = &g->arrivals[j];
            if (!a->known || !b->known || a->hello.rank != b->hello.rank) continue;
            if (!first || a->hello.rank < first->hello.rank) first = a, second = b;
        }
    if (!first) return LT_OK;
    return lt_fail(err, LT_ERR_USAGE,
                   "two processes are rank %u (on %s and on %s); give each a RANK of its own, and "
                   "each job a MASTER_PORT of its own",
                   first->hello.rank, first->hello.host, second->hello.host);
}

/* "1, 3, 4 and 7 more" */
static void list_missing(const gathering *g, char *out, size_t size)
{
    enum { SHOWN = 8 };
    int missing = 0;
    size_t used = 0;
    out[0] = '\0';
    for (int rank = 1; rank < g->settings->world_size; rank++) {
        if (rank_is_known(g, (uint32_t)rank)) continue;
        if (missing++ < SHOWN)
            used += (size_t)snprintf(out + used, size - used, "%s%d", used ? ", " : "", rank);
    }
    if (missing > SHOWN) snprintf(out + used, size - used, " and %d more", missing - SHOWN);
}

static lt_status not_all_came(const gathering *g, double seconds, lt_err *err)
{
    char missing[160], strangers[96] = "";
    list_missing(g, missing, sizeof missing);
    if (g->strangers > 0)
        snprintf(strangers, sizeof strangers, " (%d connections were not from lathe)",
                 g->strangers);
    return lt_fail(err, LT_ERR_IO,
                   "%d of %d processes did not come to rank 0 (%s port %d, %s) within %.0f "
                   "seconds: rank %s%s; were they started, and with this MASTER_ADDR and "
                   "MASTER_PORT?",
                   g->settings->world_size - 1 - g->known, g->settings->world_size,
                   g->settings->host, g->settings->port, g->settings->port_name, seconds, missing,
                   strangers);
}

/* Until all are there and fit together, or it is clear that they will not. */
static lt_status wait_for_all(gathering *g, double seconds, lt_err *err)
{
    double deadline = lt_rendezvous_now() + seconds;
    while (lt_rendezvous_now() < deadline) {
        take_what_comes(g);
        LT_TRY(lt_rendezvous_check_stop(g->settings, err));
        bool all = g->known >= g->settings->world_size - 1;
        bool enough = g->misfit_since > 0 && lt_rendezvous_now() - g->misfit_since > GRACE;
        if (!all && !enough) continue;
        LT_TRY(find_misfit(g, err));
        LT_TRY(find_double(g, err));
        if (all) return LT_OK;
        g->misfit_since = 0; /* the one that did not fit has gone, or came twice */
    }
    LT_TRY(find_misfit(g, err));
    LT_TRY(find_double(g, err));
    return not_all_came(g, seconds, err);
}

/* --- Answering -------------------------------------------------------------------------------- */

/* The same message for all that came. */
static void refuse(const gathering *g, lt_status why, const char *message)
{
    lt_buffer out = {0};
    double deadline = lt_rendezvous_now() + ANSWER_PATIENCE;
    size_t length = strnlen(message, RENDEZVOUS_MAX_MESSAGE);
    if (lt_rendezvous_verdict_write(why, g->settings->host, message, length, &out, NULL) == LT_OK)
        for (int i = 0; i < g->count; i++)
            if (g->arrivals[i].known)
                (void)lt_rendezvous_send(g->arrivals[i].fd, out.data, out.size, deadline);
    lt_buffer_free(&out);
}

/* The connections become the rendezvous's. */
static void hand_over(gathering *g, lt_rendezvous *rendezvous)
{
    for (int i = 0; i < g->count; i++) {
        arrival *a = &g->arrivals[i];
        if (!a->known) continue;
        lt_rendezvous_peer *peer = &rendezvous->peers[a->hello.rank - 1];
        *peer = (lt_rendezvous_peer){.rank = (int)a->hello.rank, .fd = a->fd};
        memcpy(peer->host, a->hello.host, sizeof peer->host);
        a->fd = -1;
    }
}

static lt_status welcome(lt_rendezvous *rendezvous, const char *host, const void *payload,
                         size_t bytes, lt_err *err)
{
    lt_buffer out = {0};
    double deadline = lt_rendezvous_now() + ANSWER_PATIENCE;
    lt_status status = lt_rendezvous_verdict_write(LT_OK, host, payload, bytes, &out, err);
    for (int i = 0; status == LT_OK && i < rendezvous->peer_count; i++) {
        const lt_rendezvous_peer *peer = &rendezvous->peers[i];
        if (!lt_rendezvous_send(peer->fd, out.data, out.size, deadline))
            status = lt_fail(err, LT_ERR_IO, "rank %d (%s) is gone: its connection was closed",
                             peer->rank, peer->host);
    }
    lt_buffer_free(&out);
    return status;
}

static lt_status set_up(gathering *g, const lt_rendezvous_settings *settings, size_t payload_bytes,
                        lt_err *err)
{
    g->settings = settings;
    g->listener = -1;
    g->mine = (lt_rendezvous_hello){.protocol = RENDEZVOUS_PROTOCOL,
                                    .world_size = (uint32_t)settings->world_size,
                                    .payload_bytes = (uint32_t)payload_bytes,
                                    .identity = (char *)settings->identity};
    snprintf(g->mine.host, sizeof g->mine.host, "%s", settings->host);
    snprintf(g->mine.version, sizeof g->mine.version, "%s", settings->version);
    g->capacity = settings->world_size - 1 + STRANGERS_AT_A_TIME;
    g->arrivals = calloc((size_t)g->capacity, sizeof *g->arrivals);
    g->polled = calloc((size_t)g->capacity + 1, sizeof *g->polled);
    if (!g->arrivals || !g->polled)
        return lt_fail_nomem(err, (size_t)g->capacity * sizeof *g->arrivals, "connections");
    return lt_rendezvous_listen(settings, &g->listener, err);
}

static void tear_down(gathering *g)
{
    for (int i = 0; i < g->count; i++)
        forget(&g->arrivals[i]);
    free(g->arrivals);
    free(g->polled);
    if (g->listener >= 0) close(g->listener);
}

lt_status lt_rendezvous_gather(lt_rendezvous *rendezvous, const lt_rendezvous_settings *settings,
                               const void *payload, size_t bytes, lt_err *err)
{
    gathering g = {0};
    lt_err own = {0};
    lt_status status = LT_OK;
    LT_TRY_GOTO(status, set_up(&g, settings, bytes, &own), done);
    status = wait_for_all(&g, settings->deadline, &own);
    if (status != LT_OK) {
        refuse(&g, status, own.message);
        goto done;
    }
    hand_over(&g, rendezvous);
    status = welcome(rendezvous, settings->host, payload, bytes, &own);
    if (status != LT_OK) lt_rendezvous_fail(rendezvous, own.message);
done:
    rendezvous->strangers = g.strangers;
    tear_down(&g);
    if (status != LT_OK && err) *err = own;
    return status;
}
