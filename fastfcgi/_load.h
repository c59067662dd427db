/* What the load generator needs of the system: a clock, sockets that do not block, and waiting for
 * them.
 *
 * POSIX; epoll on Linux, poll() elsewhere and with LOAD_POLL defined.
 */

#ifndef FASTFCGI_LOAD_H
#define FASTFCGI_LOAD_H

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#if defined(__linux__) && !defined(LOAD_POLL)
#define LOAD_EPOLL
#include <sys/epoll.h>
#else
#include <poll.h>
#endif

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

static inline uint64_t load_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- sockets ---- */

static inline int load_socket(int family)
{
    int on = 1;
#ifdef SOCK_NONBLOCK
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
#else
    int fd = socket(family, SOCK_STREAM, 0);
    if (fd < 0)
        return -1;
    fcntl(fd, F_SETFL, O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
#endif
#ifdef SO_NOSIGPIPE
    setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
    if (family != AF_UNIX)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

static inline int load_socket_error(int fd)
{
    int error = 0;
    socklen_t size = sizeof error;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 ? errno : error;
}

typedef struct {
    struct sockaddr_storage where;
    socklen_t size;
} LoadAddress;

/* -1: the path is too long. An abstract name begins with NUL and has none at its end. */
static inline int load_unix_address(LoadAddress* out, const char* path, size_t length)
{
    struct sockaddr_un* where = (struct sockaddr_un*)&out->where;
    size_t end = length && path[0] ? 1 : 0;
    if (length + end > sizeof where->sun_path)
        return -1;
    memset(out, 0, sizeof *out);
    where->sun_family = AF_UNIX;
    memcpy(where->sun_path, path, length);
    out->size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + end);
    return 0;
}

static inline void load_inet_address(
    LoadAddress* out, int six, const char* host, int port, int scope)
{
    memset(out, 0, sizeof *out);
    if (six) {
        struct sockaddr_in6* where = (struct sockaddr_in6*)&out->where;
        where->sin6_family = AF_INET6;
        where->sin6_port = htons((uint16_t)port);
        where->sin6_scope_id = (uint32_t)scope;
        memcpy(&where->sin6_addr, host, 16);
        out->size = sizeof *where;
    } else {
        struct sockaddr_in* where = (struct sockaddr_in*)&out->where;
        where->sin_family = AF_INET;
        where->sin_port = htons((uint16_t)port);
        memcpy(&where->sin_addr, host, 4);
        out->size = sizeof *where;
    }
}

static inline int load_connect(int fd, const LoadAddress* to)
{
    return connect(fd, (const struct sockaddr*)&to->where, to->size);
}

/* ---- waiting: each connection has a slot ---- */

enum { LOAD_READ = 1, LOAD_WRITE = 2, LOAD_HANGUP = 4, LOAD_EVENTS = 256 };

#ifdef LOAD_EPOLL
typedef struct {
    int fd, found, at;
    struct epoll_event events[LOAD_EVENTS];
} LoadPoller;

static inline LoadPoller* load_poller_new(int slots)
{
    LoadPoller* poller = malloc(sizeof *poller);
    (void)slots;
    if (!poller)
        return NULL;
    poller->found = poller->at = 0;
    poller->fd = epoll_create1(EPOLL_CLOEXEC);
    if (poller->fd < 0) {
        free(poller);
        return NULL;
    }
    return poller;
}

static inline void load_poller_free(LoadPoller* poller)
{
    if (poller) {
        close(poller->fd);
        free(poller);
    }
}

/* Doing it again reports again what is there. */
static inline int load_poller_watch(LoadPoller* poller, int slot, int fd, int what, int is_new)
{
    struct epoll_event event;
    memset(&event, 0, sizeof event);
    event.events = EPOLLET | EPOLLRDHUP;
    if (what & LOAD_READ)
        event.events |= EPOLLIN;
    if (what & LOAD_WRITE)
        event.events |= EPOLLOUT;
    event.data.u32 = (uint32_t)slot;
    return epoll_ctl(poller->fd, is_new ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &event);
}

/* Before its descriptor is closed, which is what takes it out of an epoll set. */
static inline void load_poller_forget(LoadPoller* poller, int slot)
{
    (void)poller, (void)slot;
}

static inline int load_poller_wait(LoadPoller* poller, int milliseconds)
{
    int found = epoll_wait(poller->fd, poller->events, LOAD_EVENTS, milliseconds);
    poller->found = found < 0 ? 0 : found;
    poller->at = 0;
    return found;
}

static inline int load_poller_next(LoadPoller* poller, int* slot)
{
    uint32_t events;
    if (poller->at == poller->found)
        return 0;
    *slot = (int)poller->events[poller->at].data.u32;
    events = poller->events[poller->at++].events;
    return (events & EPOLLIN ? LOAD_READ : 0) | (events & EPOLLOUT ? LOAD_WRITE : 0)
        | (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR) ? LOAD_HANGUP : 0);
}
#else
/* Without gaps, because poll() takes no more entries than a process may have descriptors. What
 * moves into a gap while events are looked at is seen the next time. */
typedef struct {
    int count, found, at;
    struct pollfd* polled;
    int* slots; /* of the entries */
    int* entries; /* of the slots; -1 for none */
} LoadPoller;

static inline void load_poller_free(LoadPoller* poller)
{
    if (poller) {
        free(poller->polled);
        free(poller->slots);
        free(poller->entries);
        free(poller);
    }
}

static inline LoadPoller* load_poller_new(int slots)
{
    int slot;
    LoadPoller* poller = calloc(1, sizeof *poller);
    if (!poller)
        return NULL;
    poller->polled = calloc((size_t)slots + 1, sizeof *poller->polled);
    poller->slots = calloc((size_t)slots + 1, sizeof *poller->slots);
    poller->entries = calloc((size_t)slots + 1, sizeof *poller->entries);
    if (!poller->polled || !poller->slots || !poller->entries) {
        load_poller_free(poller);
        return NULL;
    }
    for (slot = 0; slot < slots; slot++)
        poller->entries[slot] = -1;
    return poller;
}

static inline int load_poller_watch(LoadPoller* poller, int slot, int fd, int what, int is_new)
{
    int entry;
    if (is_new) {
        poller->entries[slot] = poller->count;
        poller->slots[poller->count] = slot;
        poller->polled[poller->count].revents = 0;
        poller->count++;
    }
    entry = poller->entries[slot];
    poller->polled[entry].fd = fd;
    poller->polled[entry].events
        = (short)((what & LOAD_READ ? POLLIN : 0) | (what & LOAD_WRITE ? POLLOUT : 0));
    return 0;
}

static inline void load_poller_forget(LoadPoller* poller, int slot)
{
    int entry = poller->entries[slot], last;
    if (entry < 0)
        return;
    last = --poller->count;
    poller->polled[entry] = poller->polled[last];
    poller->slots[entry] = poller->slots[last];
    poller->entries[poller->slots[entry]] = entry;
    poller->entries[slot] = -1;
}

static inline int load_poller_wait(LoadPoller* poller, int milliseconds)
{
    poller->at = 0;
    poller->found = poll(poller->polled, (nfds_t)poller->count, milliseconds);
    return poller->found;
}

static inline int load_poller_next(LoadPoller* poller, int* slot)
{
    while (poller->found > 0 && poller->at < poller->count) {
        short events = poller->polled[poller->at].revents;
        *slot = poller->slots[poller->at++];
        if (events)
            return (events & POLLIN ? LOAD_READ : 0) | (events & POLLOUT ? LOAD_WRITE : 0)
                | (events & (POLLHUP | POLLERR | POLLNVAL) ? LOAD_HANGUP : 0);
    }
    return 0;
}
#endif

#endif
