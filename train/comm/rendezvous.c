/* Opening and closing a rendezvous, and what the ranks other than 0 do: connect, say hello, hear
 * the verdict. */
#include "train/comm/rendezvous.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "train/comm/rendezvous_internal.h"

#define DEFAULT_DEADLINE 120.0
/* Rank 0 answers at its own deadline, which is not later than ours after it began to listen. */
#define ANSWER_MARGIN 10.0

/* --- The other ranks -------------------------------------------------------------------------- */

/* What came of one conversation. */
typedef enum outcome { WELCOME, REFUSED, CUT_OFF, NOT_LATHE } outcome;

static outcome read_verdict(lt_rendezvous *r, int fd, void *payload, size_t bytes, double deadline,
                            lt_status *status, lt_err *err)
{
    char head[RENDEZVOUS_VERDICT_HEAD], message[RENDEZVOUS_MAX_MESSAGE + 1] = "";
    lt_rendezvous_verdict verdict;
    lt_rendezvous_peer *peer = &r->peers[0];
    if (!lt_rendezvous_receive(fd, head, sizeof head, deadline)) return CUT_OFF;
    if (!lt_rendezvous_verdict_read(head, &verdict)) return NOT_LATHE;
    if (!lt_rendezvous_receive(fd, peer->host, verdict.host_bytes, deadline)) return CUT_OFF;
    peer->host[verdict.host_bytes] = '\0';
    lt_rendezvous_make_printable(peer->host);
    if (verdict.status == LT_OK) {
        if (verdict.bytes != bytes) return NOT_LATHE; /* sizes were compared by rank 0 */
        return lt_rendezvous_receive(fd, payload, bytes, deadline) ? WELCOME : CUT_OFF;
    }
    if (!lt_rendezvous_receive(fd, message, verdict.bytes, deadline)) return CUT_OFF;
    lt_rendezvous_make_printable(message);
    *status = lt_fail(err, verdict.status, "%s", message);
    return REFUSED;
}

static lt_status never_answered(const lt_rendezvous_settings *s, outcome last, lt_err *err)
{
    const char *why = last == NOT_LATHE
                          ? "something other than lathe answers there: choose another MASTER_PORT"
                          : "the connection was closed without an answer; see what rank 0 says";
    return lt_fail(err, LT_ERR_IO,
                   "no answer from rank 0 at %s port %d (MASTER_ADDR, %s) within %.0f seconds: %s",
                   s->address, s->port, s->port_name, s->deadline, why);
}

/* Until there is a verdict: a connection that ends without one, or in nonsense, may be one to the
 * job before, which is just ending. */
static lt_status join(lt_rendezvous *r, const lt_rendezvous_settings *s, void *payload,
                      size_t bytes, lt_err *err)
{
    lt_buffer hello = {0};
    lt_status status = lt_rendezvous_hello_write(s, bytes, &hello, err);
    double deadline = lt_rendezvous_now() + s->deadline, pause = 0.05;
    r->peers[0] = (lt_rendezvous_peer){.rank = 0, .fd = -1};
    while (status == LT_OK) {
        int fd = -1;
        LT_TRY_GOTO(status, lt_rendezvous_connect(s, deadline, &fd, err), done);
        double patience = lt_rendezvous_now() + s->deadline + ANSWER_MARGIN;
        outcome o = CUT_OFF;
        if (lt_rendezvous_send(fd, hello.data, hello.size, patience)) {
            lt_rendezvous_wait(s, fd, patience);
            status = lt_rendezvous_check_stop(s, err);
            if (status == LT_OK) o = read_verdict(r, fd, payload, bytes, patience, &status, err);
        }
        if (o == WELCOME) {
            r->peers[0].fd = fd;
            break;
        }
        close(fd);
        if (status != LT_OK) break;
        if (lt_rendezvous_now() > deadline) {
            status = never_answered(s, o, err);
            break;
        }
        lt_rendezvous_pause(pause);
        pause = pause < 0.5 ? 1.5 * pause : 0.5;
    }
done:
    lt_buffer_free(&hello);
    return status;
}

/* --- Opening ---------------------------------------------------------------------------------- */

static lt_status check_settings(const lt_rendezvous_settings *s, size_t bytes, lt_err *err)
{
    const char *missing = !s->address[0] ? "MASTER_ADDR" : s->port == 0 ? "MASTER_PORT" : NULL;
    if (missing)
        return lt_fail(err, LT_ERR_USAGE,
                       "%s is not set: set MASTER_ADDR to the host of rank 0 and MASTER_PORT to a "
                       "port that is free there, the same for all processes",
                       missing);
    if (s->port < 1 || s->port > 65535)
        return lt_fail(err, LT_ERR_USAGE, "MASTER_PORT is %d; it must be 1 to 65535", s->port);
    if (s->world_size > RENDEZVOUS_MAX_WORLD)
        return lt_fail(err, LT_ERR_LIMIT, "WORLD_SIZE is %d; at most %d are supported",
                       s->world_size, RENDEZVOUS_MAX_WORLD);
    if (strlen(s->identity) > RENDEZVOUS_MAX_IDENTITY)
        return lt_fail(err, LT_ERR_LIMIT, "the settings are longer than %d bytes",
                       RENDEZVOUS_MAX_IDENTITY);
    if (bytes > LT_RENDEZVOUS_PAYLOAD || strlen(s->host) > RENDEZVOUS_MAX_NAME ||
        strlen(s->version) > RENDEZVOUS_MAX_NAME)
        return lt_fail(err, LT_ERR_LIMIT, "payload, host or version is too long");
    return LT_OK;
}

static lt_status create(const lt_rendezvous_settings *s, lt_rendezvous **out, lt_err *err)
{
    lt_rendezvous *r = calloc(1, sizeof *r);
    if (!r) return lt_fail_nomem(err, sizeof *r, "a rendezvous");
    *out = r;
    r->wake[0] = r->wake[1] = -1;
    pthread_mutex_init(&r->lock, NULL);
    r->lost = s->lost;
    r->context = s->context;
    r->peer_count = s->world_size == 1 ? 0 : s->rank == 0 ? s->world_size - 1 : 1;
    size_t count = (size_t)r->peer_count + 1;
    r->peers = calloc(count, sizeof *r->peers);
    r->polled = calloc(count, sizeof *r->polled);
    if (!r->peers || !r->polled) return lt_fail_nomem(err, count * sizeof *r->peers, "connections");
    for (int i = 0; i < r->peer_count; i++)
        r->peers[i].fd = -1;
    return LT_OK;
}

lt_status lt_rendezvous_open(const lt_rendezvous_settings *settings, void *payload, size_t bytes,
                             lt_rendezvous **out, lt_err *err)
{
    lt_rendezvous_settings s = *settings;
    lt_rendezvous *r = NULL;
    if (s.deadline <= 0) s.deadline = DEFAULT_DEADLINE;
    if (!s.port_name) s.port_name = "MASTER_PORT";
    *out = NULL;
    if (s.world_size > 1) LT_TRY(check_settings(&s, bytes, err));
    lt_status status = create(&s, &r, err);
    if (status == LT_OK && s.world_size > 1) {
        status = s.rank == 0 ? lt_rendezvous_gather(r, &s, payload, bytes, err)
                             : join(r, &s, payload, bytes, err);
        if (status == LT_OK) status = lt_rendezvous_watch_start(r, err);
    }
    if (status == LT_OK)
        *out = r;
    else
        lt_rendezvous_close(r);
    return status;
}

void lt_rendezvous_close(lt_rendezvous *rendezvous)
{
    lt_rendezvous *r = rendezvous;
    if (!r) return;
    lt_rendezvous_watch_stop(r);
    for (int i = 0; r->peers && i < r->peer_count; i++)
        if (r->peers[i].fd >= 0) close(r->peers[i].fd);
    for (int i = 0; i < 2; i++)
        if (r->wake[i] >= 0) close(r->wake[i]);
    pthread_mutex_destroy(&r->lock);
    free(r->peers);
    free(r->polled);
    free(r);
}

int lt_rendezvous_strangers(const lt_rendezvous *rendezvous)
{
    return rendezvous->strangers;
}
