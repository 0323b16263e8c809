/* What the files of the rendezvous share. Nothing else includes this.
 *
 *   rendezvous.c          opening and closing; what the ranks other than 0 do
 *   rendezvous_gather.c   rank 0: waits for all, judges, answers
 *   rendezvous_message.c  the bytes of a hello, and whether two ranks fit together
 *   rendezvous_socket.c   listening, connecting, sending and receiving until a deadline
 *   rendezvous_watch.c    the thread that sees deaths
 *
 * On the wire, integers little-endian:
 *   hello    "LATHERDV", u32 protocol, world size, rank, payload bytes, and the bytes of host,
 *            version and identity; u64 XXH3 of the three; then host, version, identity
 *   verdict  "LATHEVDT", u32 0 welcome, 1 refused, 2 not all came or 3 rank 0 was told to stop, u32
 *            bytes of host, u32 bytes; host of rank 0, then the payload or the message
 *   later    one byte: 'b' good-bye; 'f' failed, followed by u32 bytes and a message */
#ifndef LT_TRAIN_COMM_RENDEZVOUS_INTERNAL_H
#define LT_TRAIN_COMM_RENDEZVOUS_INTERNAL_H

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buffer.h"
#include "train/comm/rendezvous.h"

enum {
    RENDEZVOUS_PROTOCOL = 1,
    RENDEZVOUS_MAX_NAME = 63,          /* host, version */
    RENDEZVOUS_MAX_IDENTITY = 1 << 20, /* bytes */
    RENDEZVOUS_MAX_MESSAGE = 1000,     /* what fits into an lt_err */
    RENDEZVOUS_MAX_WORLD = 1 << 16,
};

/* --- Messages -------------------------------------------------------------------------------- */

typedef struct lt_rendezvous_hello {
    uint32_t protocol, world_size, rank, payload_bytes;
    char host[RENDEZVOUS_MAX_NAME + 1]; /* printable */
    char version[RENDEZVOUS_MAX_NAME + 1];
    char *identity; /* owned, NUL-terminated */
} lt_rendezvous_hello;

typedef enum lt_rendezvous_parse {
    RENDEZVOUS_MORE,    /* well so far, not all there */
    RENDEZVOUS_DONE,    /* this is a hello */
    RENDEZVOUS_FOREIGN, /* this is none */
} lt_rendezvous_parse;

lt_status lt_rendezvous_hello_write(const lt_rendezvous_settings *settings, size_t payload_bytes,
                                    lt_buffer *out, lt_err *err);
/* A hello of another protocol is done after its head, with everything else empty. */
lt_rendezvous_parse lt_rendezvous_hello_read(const char *data, size_t size,
                                             lt_rendezvous_hello *out);
/* How many more bytes to read at most, so that nobody can send without end. */
size_t lt_rendezvous_hello_missing(const char *data, size_t size);

enum { RENDEZVOUS_VERDICT_HEAD = 20 };
typedef struct lt_rendezvous_verdict {
    lt_status status; /* LT_OK: welcome */
    uint32_t host_bytes, bytes;
} lt_rendezvous_verdict;
lt_status lt_rendezvous_verdict_write(lt_status status, const char *host, const void *data,
                                      size_t bytes, lt_buffer *out, lt_err *err);
/* False: these bytes are no verdict. */
bool lt_rendezvous_verdict_read(const char head[RENDEZVOUS_VERDICT_HEAD],
                                lt_rendezvous_verdict *out);

/* LT_ERR_USAGE and the message for all when `theirs` does not fit with rank 0's `mine`. */
lt_status lt_rendezvous_compare(const lt_rendezvous_hello *mine, const lt_rendezvous_hello *theirs,
                                lt_err *err);
/* Replaces what a terminal should not get. */
void lt_rendezvous_make_printable(char *text);

void lt_rendezvous_put_u32(char *out, uint32_t value);
uint32_t lt_rendezvous_get_u32(const char *data);

/* --- Sockets: all non-blocking, closed on exec ------------------------------------------------ */

double lt_rendezvous_now(void); /* seconds, monotonic */
lt_status lt_rendezvous_listen(const lt_rendezvous_settings *settings, int *fd, lt_err *err);
/* Tries until `deadline` (lt_rendezvous_now). */
lt_status lt_rendezvous_connect(const lt_rendezvous_settings *settings, double deadline, int *fd,
                                lt_err *err);
/* Until there is something to receive, or nothing more to wait for: the deadline, or
 * settings->stopped. */
void lt_rendezvous_wait(const lt_rendezvous_settings *settings, int fd, double deadline);
/* LT_ERR_INTERRUPTED when settings->stopped says so. */
lt_status lt_rendezvous_check_stop(const lt_rendezvous_settings *settings, lt_err *err);
/* Dead hosts and cut lines are noticed within seconds, though nothing is sent. */
void lt_rendezvous_tune(int fd);
/* False: closed, failed, or the deadline. */
bool lt_rendezvous_send(int fd, const void *data, size_t bytes, double deadline);
bool lt_rendezvous_receive(int fd, void *data, size_t bytes, double deadline);
void lt_rendezvous_pause(double seconds);

/* --- A rendezvous ---------------------------------------------------------------------------- */

typedef struct lt_rendezvous_peer {
    int rank;
    int fd; /* -1: has left */
    char host[RENDEZVOUS_MAX_NAME + 1];
    char inbox[8 + RENDEZVOUS_MAX_MESSAGE]; /* a message that has not come whole yet */
    size_t inbox_bytes;
} lt_rendezvous_peer;

struct lt_rendezvous {
    lt_rendezvous_peer *peers; /* rank 0: all others by rank; else: rank 0 */
    int peer_count;
    struct pollfd *polled; /* [1 + peer_count], of the thread */
    int strangers;
    void (*lost)(void *context, const char *message);
    void *context;
    pthread_t thread;
    bool watching;
    int wake[2];          /* a pipe: what is written there ends the thread */
    pthread_mutex_t lock; /* of sending, and of `told` */
    bool told;            /* the others know that this job fails */
    atomic_bool leaving;  /* has said good-bye: the others may hang up */
};

/* Rank 0: fills peers and answers them. */
lt_status lt_rendezvous_gather(lt_rendezvous *rendezvous, const lt_rendezvous_settings *settings,
                               const void *payload, size_t bytes, lt_err *err);

lt_status lt_rendezvous_watch_start(lt_rendezvous *rendezvous, lt_err *err);
/* Sends good-bye, waits a moment for the others' and ends the thread. */
void lt_rendezvous_watch_stop(lt_rendezvous *rendezvous);

#endif
