/* TCP: listening on all interfaces, connecting with patience, and bytes until a deadline. */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "train/comm/rendezvous_internal.h"

double lt_rendezvous_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void lt_rendezvous_pause(double seconds)
{
    struct timespec t = {.tv_sec = (time_t)seconds};
    t.tv_nsec = (long)(1e9 * (seconds - (double)t.tv_sec));
    nanosleep(&t, NULL);
}

static int milliseconds_to(double deadline)
{
    double left = 1e3 * (deadline - lt_rendezvous_now());
    return left < 0 ? 0 : left > 1e6 ? 1000000 : (int)left + 1;
}

/* --- Listening -------------------------------------------------------------------------------- */

/* One socket for IPv6 and IPv4; or for IPv4 alone, where the host has no IPv6. Fails with errno. */
static int bind_to(int family, int port)
{
    struct sockaddr_in6 six = {
        .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port), .sin6_addr = IN6ADDR_ANY_INIT};
    struct sockaddr_in four = {.sin_family = AF_INET,
                               .sin_port = htons((uint16_t)port),
                               .sin_addr.s_addr = htonl(INADDR_ANY)};
    bool is_six = family == AF_INET6;
    const struct sockaddr *address = is_six ? (struct sockaddr *)&six : (struct sockaddr *)&four;
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1, off = 0;
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (is_six) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (bind(fd, address, is_six ? sizeof six : sizeof four) == 0 && listen(fd, 1024) == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

lt_status lt_rendezvous_listen(const lt_rendezvous_settings *settings, int *fd, lt_err *err)
{
    const char *name = settings->port_name;
    int port = settings->port;
    *fd = bind_to(AF_INET6, port);
    if (*fd < 0 && (errno == EAFNOSUPPORT || errno == EADDRNOTAVAIL)) *fd = bind_to(AF_INET, port);
    if (*fd >= 0) return LT_OK;
    if (errno == EADDRINUSE)
        return lt_fail(err, LT_ERR_USAGE,
                       "port %d (%s) is in use on this host, perhaps by another job: choose "
                       "another MASTER_PORT, the same for all processes (torchrun: --master-port)",
                       port, name);
    return lt_fail(err, LT_ERR_IO, "can not listen on port %d (%s): %s", port, name,
                   strerror(errno));
}

void lt_rendezvous_tune(int fd)
{
    const struct {
        int level, option, value;
    } options[] = {
        {SOL_SOCKET, SO_KEEPALIVE, 1},  {IPPROTO_TCP, TCP_NODELAY, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, 2}, {IPPROTO_TCP, TCP_KEEPINTVL, 1},
        {IPPROTO_TCP, TCP_KEEPCNT, 4},  {IPPROTO_TCP, TCP_USER_TIMEOUT, 6000 /* ms */},
    };
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
        setsockopt(fd, options[i].level, options[i].option, &options[i].value, sizeof(int));
}

/* --- Connecting ------------------------------------------------------------------------------- */

/* One attempt; -1 and errno. */
static int try_address(const struct addrinfo *to, double deadline)
{
    int fd = socket(to->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), error = 0;
    socklen_t size = sizeof error;
    if (fd < 0) return -1;
    if (connect(fd, to->ai_addr, to->ai_addrlen) == 0) return fd;
    error = errno;
    struct pollfd waiting = {.fd = fd, .events = POLLOUT};
    if (error == EINPROGRESS && poll(&waiting, 1, milliseconds_to(deadline)) > 0)
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error == 0) return fd;
    close(fd);
    errno = error == EINPROGRESS ? ETIMEDOUT : error;
    return -1;
}

static int try_addresses(const struct addrinfo *list, double deadline)
{
    enum { PATIENCE = 3 }; /* seconds for each */
    int fd = -1;
    for (const struct addrinfo *to = list; to && fd < 0; to = to->ai_next) {
        double until = lt_rendezvous_now() + PATIENCE;
        fd = try_address(to, until < deadline ? until : deadline);
    }
    return fd;
}

static lt_status unknown_name(const char *address, int code, lt_err *err)
{
    return lt_fail(err, LT_ERR_USAGE,
                   "MASTER_ADDR is \"%s\", which is not the name or address of a host (%s); set it "
                   "to the host of rank 0, the same for all processes",
                   address, gai_strerror(code));
}

/* Rank 0 may start later than this one, and its name may be new: so all is tried again and again,
 * names that are not known for a shorter time. */
lt_status lt_rendezvous_connect(const lt_rendezvous_settings *settings, double deadline, int *fd,
                                lt_err *err)
{
    enum { NAME_PATIENCE = 10 };
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    double name_deadline = lt_rendezvous_now() + NAME_PATIENCE, pause = 0.02;
    const char *address = settings->address;
    char service[16];
    int error = ETIMEDOUT;
    snprintf(service, sizeof service, "%d", settings->port);
    for (*fd = -1; *fd < 0;) {
        struct addrinfo *list = NULL;
        LT_TRY(lt_rendezvous_check_stop(settings, err));
        int code = getaddrinfo(address, service, &hints, &list);
        if (code == 0) {
            *fd = try_addresses(list, deadline);
            error = errno;
            freeaddrinfo(list);
            if (*fd >= 0) break;
        }
        double now = lt_rendezvous_now();
        if (code != 0 && (now > name_deadline || now > deadline))
            return unknown_name(address, code, err);
        if (now > deadline)
            return lt_fail(err, LT_ERR_IO,
                           "rank 0 is not reachable at %s port %d (MASTER_ADDR, %s) within %.0f "
                           "seconds: %s; is it running, and is the port open?",
                           address, settings->port, settings->port_name, settings->deadline,
                           strerror(error));
        lt_rendezvous_pause(pause);
        pause = pause < 0.5 ? 1.5 * pause : 0.5;
    }
    lt_rendezvous_tune(*fd);
    return LT_OK;
}

/* --- Bytes ------------------------------------------------------------------------------------ */

static bool wait_for(int fd, short events, double deadline)
{
    struct pollfd waiting = {.fd = fd, .events = events};
    int ready = 0;
    do {
        ready = poll(&waiting, 1, milliseconds_to(deadline));
    } while (ready < 0 && errno == EINTR);
    return ready > 0;
}

lt_status lt_rendezvous_check_stop(const lt_rendezvous_settings *settings, lt_err *err)
{
    if (!settings->stopped || !settings->stopped()) return LT_OK;
    return lt_fail(err, LT_ERR_INTERRUPTED,
                   "rank %d (%s) was told to stop while it waited for the other processes",
                   settings->rank, settings->host);
}

void lt_rendezvous_wait(const lt_rendezvous_settings *settings, int fd, double deadline)
{
    const double piece = 0.1; /* seconds: the signal may reach another thread than this one */
    for (double now = lt_rendezvous_now(); now < deadline; now = lt_rendezvous_now()) {
        bool ready = wait_for(fd, POLLIN, now + piece < deadline ? now + piece : deadline);
        if (ready || lt_rendezvous_check_stop(settings, NULL) != LT_OK) return;
    }
}

static bool try_again(void)
{
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

bool lt_rendezvous_send(int fd, const void *data, size_t bytes, double deadline)
{
    const char *at = data;
    while (bytes > 0) {
        ssize_t sent = send(fd, at, bytes, MSG_NOSIGNAL);
        if (sent < 0 && !try_again()) return false;
        if (sent < 0 && !wait_for(fd, POLLOUT, deadline)) return false;
        if (sent > 0) at += sent, bytes -= (size_t)sent;
    }
    return true;
}

bool lt_rendezvous_receive(int fd, void *data, size_t bytes, double deadline)
{
    char *at = data;
    while (bytes > 0) {
        ssize_t got = recv(fd, at, bytes, 0);
        if (got == 0 || (got < 0 && !try_again())) return false;
        if (got < 0 && !wait_for(fd, POLLIN, deadline)) return false;
        if (got > 0) at += got, bytes -= (size_t)got;
    }
    return true;
}
