/* The thread that sees deaths: it waits for bytes on the connections that the start left open. Rank
 * 0 hears of every rank and tells the others; they hear of everything through rank 0. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/thread.h"
#include "train/comm/rendezvous_internal.h"

enum { GOOD_BYE = 'b', FAILED = 'f', FAILED_HEAD = 5 };

/* Seconds to wait for the others' good-bye after one's own. */
#define LEAVING_PATIENCE 2.0

/* --- Telling ---------------------------------------------------------------------------------- */

/* Small, and seldom: it fits into what the connection holds. A peer that is gone does not hear it.
 */
static void post(const lt_rendezvous_peer *peer, const void *data, size_t bytes)
{
    if (peer->fd >= 0) (void)send(peer->fd, data, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* To all that are connected, once. False: something was told before. */
static bool tell(lt_rendezvous *r, const char *message)
{
    char text[FAILED_HEAD + RENDEZVOUS_MAX_MESSAGE] = {FAILED};
    size_t length = strnlen(message, RENDEZVOUS_MAX_MESSAGE);
    lt_rendezvous_put_u32(text + 1, (uint32_t)length);
    memcpy(text + FAILED_HEAD, message, length);
    pthread_mutex_lock(&r->lock);
    bool first = !r->told;
    r->told = true;
    for (int i = 0; first && i < r->peer_count; i++)
        post(&r->peers[i], text, FAILED_HEAD + length);
    pthread_mutex_unlock(&r->lock);
    return first;
}

void lt_rendezvous_fail(lt_rendezvous *rendezvous, const char *message)
{
    if (rendezvous) (void)tell(rendezvous, message);
}

/* --- Hearing ---------------------------------------------------------------------------------- */

static void hang_up(lt_rendezvous *r, lt_rendezvous_peer *peer)
{
    pthread_mutex_lock(&r->lock);
    close(peer->fd);
    peer->fd = -1;
    pthread_mutex_unlock(&r->lock);
}

/* What is in the inbox: nothing whole yet (false), or the message of a rank that failed. */
static bool read_message(const lt_rendezvous_peer *peer, char message[RENDEZVOUS_MAX_MESSAGE + 1])
{
    if (peer->inbox_bytes < FAILED_HEAD) return false;
    uint32_t length = lt_rendezvous_get_u32(peer->inbox + 1);
    if (length > RENDEZVOUS_MAX_MESSAGE) length = RENDEZVOUS_MAX_MESSAGE;
    if (peer->inbox_bytes < FAILED_HEAD + length) return false;
    memcpy(message, peer->inbox + FAILED_HEAD, length);
    message[length] = '\0';
    lt_rendezvous_make_printable(message);
    return true;
}

static void describe_death(const lt_rendezvous_peer *peer, const char *how, char *message)
{
    snprintf(message, RENDEZVOUS_MAX_MESSAGE + 1, "rank %d (%s) is gone: %s", peer->rank,
             peer->host, how);
}

/* True: the job has failed, and why. */
static bool hear(lt_rendezvous *r, lt_rendezvous_peer *peer,
                 char message[RENDEZVOUS_MAX_MESSAGE + 1])
{
    size_t room = sizeof peer->inbox - peer->inbox_bytes;
    ssize_t got = recv(peer->fd, peer->inbox + peer->inbox_bytes, room, MSG_DONTWAIT);
    int error = errno;
    if (got < 0 && (error == EAGAIN || error == EWOULDBLOCK || error == EINTR)) return false;
    if (got <= 0) {
        describe_death(peer, got == 0 ? "its connection was closed" : strerror(error), message);
        hang_up(r, peer);
        return true;
    }
    peer->inbox_bytes += (size_t)got;
    if (peer->inbox[0] == GOOD_BYE) {
        hang_up(r, peer);
        return false;
    }
    if (peer->inbox[0] == FAILED) return read_message(peer, message);
    describe_death(peer, "its connection carries what lathe does not send", message);
    hang_up(r, peer);
    return true;
}

/* --- The thread ------------------------------------------------------------------------------- */

static int connected(const lt_rendezvous *r)
{
    int count = 0;
    for (int i = 0; i < r->peer_count; i++)
        count += r->peers[i].fd >= 0;
    return count;
}

/* Waits for bytes, or until the rendezvous is being closed. */
static int wait_for_bytes(lt_rendezvous *r, bool leaving, int milliseconds)
{
    r->polled[0] = (struct pollfd){.fd = leaving ? -1 : r->wake[0], .events = POLLIN};
    for (int i = 0; i < r->peer_count; i++)
        r->polled[1 + i] = (struct pollfd){.fd = r->peers[i].fd, .events = POLLIN};
    return poll(r->polled, (nfds_t)(1 + r->peer_count), milliseconds);
}

/* The others may be gone at any time now. */
static void see_off(lt_rendezvous *r)
{
    char message[RENDEZVOUS_MAX_MESSAGE + 1];
    double deadline = lt_rendezvous_now() + LEAVING_PATIENCE;
    while (connected(r) > 0 && lt_rendezvous_now() < deadline) {
        if (wait_for_bytes(r, true, 100) <= 0) continue;
        for (int i = 0; i < r->peer_count; i++)
            if (r->polled[1 + i].revents) (void)hear(r, &r->peers[i], message);
    }
}

static void *watch(void *argument)
{
    lt_rendezvous *r = argument;
    char message[RENDEZVOUS_MAX_MESSAGE + 1];
    for (;;) {
        if (wait_for_bytes(r, false, -1) < 0) continue;
        if (r->polled[0].revents) {
            see_off(r);
            return NULL;
        }
        for (int i = 0; i < r->peer_count; i++) {
            if (!r->polled[1 + i].revents || !hear(r, &r->peers[i], message)) continue;
            if (atomic_load(&r->leaving)) continue; /* they answered the good-bye */
            if (tell(r, message)) r->lost(r->context, message);
            return NULL;
        }
    }
}

lt_status lt_rendezvous_watch_start(lt_rendezvous *rendezvous, lt_err *err)
{
    if (pipe2(rendezvous->wake, O_CLOEXEC) != 0)
        return lt_fail(err, LT_ERR_IO, "making a pipe: %s", strerror(errno));
    LT_TRY(lt_thread_start(&rendezvous->thread, watch, rendezvous, "the thread for peers", err));
    rendezvous->watching = true;
    return LT_OK;
}

void lt_rendezvous_watch_stop(lt_rendezvous *rendezvous)
{
    const char bye = GOOD_BYE;
    if (!rendezvous->watching) return;
    atomic_store(&rendezvous->leaving, true); /* before anyone can answer */
    pthread_mutex_lock(&rendezvous->lock);
    for (int i = 0; i < rendezvous->peer_count && !rendezvous->told; i++) {
        post(&rendezvous->peers[i], &bye, 1);
        if (rendezvous->peers[i].fd >= 0) shutdown(rendezvous->peers[i].fd, SHUT_WR);
    }
    pthread_mutex_unlock(&rendezvous->lock);
    while (write(rendezvous->wake[1], "", 1) < 0 && errno == EINTR)
        ;
    pthread_join(rendezvous->thread, NULL);
    rendezvous->watching = false;
}
