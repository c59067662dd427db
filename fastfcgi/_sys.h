/* System calls of the hot path, none of which waits; see _sys.pxd for what they return.
 *
 * POSIX, Linux (epoll, accept4) and Windows (Winsock).
 */

#ifndef FASTFCGI_SYS_H
#define FASTFCGI_SYS_H

#include <Python.h>
#include <errno.h>
#include <string.h>

#ifdef _WIN32
#include <winsock2.h>
#include <ws2tcpip.h>
typedef struct { void *iov_base; size_t iov_len; } ff_iovec;

static inline int ff_error(void) {
    int error = WSAGetLastError();
    return error == WSAEWOULDBLOCK ? -EAGAIN : error == WSAEINTR ? -EINTR : -error;
}

static inline Py_ssize_t ff_recv(Py_ssize_t fd, void *p, Py_ssize_t size) {
    int n = recv((SOCKET)fd, (char *)p, (int)size, 0);
    return n < 0 ? ff_error() : n;
}

static inline Py_ssize_t ff_send(Py_ssize_t fd, ff_iovec *iov, int count) {
    WSABUF buffers[64];
    DWORD sent = 0;
    for (int i = 0; i < count; i++) {
        buffers[i].buf = (char *)iov[i].iov_base;
        buffers[i].len = (ULONG)iov[i].iov_len;
    }
    if (WSASend((SOCKET)fd, buffers, (DWORD)count, &sent, 0, NULL, NULL))
        return ff_error();
    return (Py_ssize_t)sent;
}

typedef int ff_signals;
static inline void ff_hold_sigpipe(ff_signals *before) { *before = 0; }
static inline void ff_drop_sigpipe(const ff_signals *before) { (void)before; }

static inline Py_ssize_t ff_send_file(
    Py_ssize_t fd, const void *head, Py_ssize_t head_size, int file, long long offset,
    Py_ssize_t size
) {
    return -ENOSYS;     /* file_wrapper.py has files read there */
}

static inline Py_ssize_t ff_accept(Py_ssize_t fd, int *is_inet) {
    struct sockaddr_storage peer;
    int size = sizeof peer;
    u_long on = 1;
    int flag = 1;
    SOCKET s = accept((SOCKET)fd, (struct sockaddr *)&peer, &size);
    if (s == INVALID_SOCKET) return ff_error();
    ioctlsocket(s, FIONBIO, &on);
    *is_inet = peer.ss_family != AF_UNIX;
    if (*is_inet)
        setsockopt(s, IPPROTO_TCP, TCP_NODELAY, (const char *)&flag, sizeof flag);
    return (Py_ssize_t)s;
}

static inline int ff_shutdown(Py_ssize_t fd) {
    return shutdown((SOCKET)fd, SD_SEND) ? ff_error() : 0;
}

static inline void ff_close(Py_ssize_t fd) { closesocket((SOCKET)fd); }

static inline void ff_reset_at_close(Py_ssize_t fd) {
    struct linger none = {1, 0};
    setsockopt((SOCKET)fd, SOL_SOCKET, SO_LINGER, (const char *)&none, sizeof none);
}

static inline int ff_hung_up(Py_ssize_t fd) { (void)fd; return 0; }

static inline int ff_wait_to_recv(Py_ssize_t fd, int milliseconds) {
    WSAPOLLFD p;
    p.fd = (SOCKET)fd;
    p.events = POLLRDNORM;
    p.revents = 0;
    return WSAPoll(&p, 1, milliseconds) > 0;
}

static inline double ff_now(void) {
    LARGE_INTEGER count, frequency;
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&frequency);
    return (double)count.QuadPart / (double)frequency.QuadPart;
}

static inline double ff_thread_cpu(void) { return 0.0; }

#else
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
typedef struct iovec ff_iovec;
#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif
#ifndef MSG_MORE
#define MSG_MORE 0
#endif
#ifdef __linux__
#include <sys/sendfile.h>
#endif

static inline Py_ssize_t ff_recv(Py_ssize_t fd, void *p, Py_ssize_t size) {
    ssize_t n;
    do n = recv((int)fd, p, (size_t)size, MSG_DONTWAIT); while (n < 0 && errno == EINTR);
    return n < 0 ? (errno == EWOULDBLOCK ? -EAGAIN : -errno) : n;
}

static inline Py_ssize_t ff_send(Py_ssize_t fd, ff_iovec *iov, int count) {
    struct msghdr message;
    ssize_t n;
    memset(&message, 0, sizeof message);
    message.msg_iov = iov;
    message.msg_iovlen = (size_t)count;
    do n = sendmsg((int)fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? (errno == EWOULDBLOCK ? -EAGAIN : -errno) : n;
}

/* sendfile() knows no MSG_NOSIGNAL, and an application may have made SIGPIPE deadly again: no such
   signal comes between these two. */
#ifdef __linux__
typedef sigset_t ff_signals;

static inline void ff_hold_sigpipe(ff_signals *before) {
    sigset_t pipe;
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe, before);
}

static inline void ff_drop_sigpipe(const ff_signals *before) {
    sigset_t pipe;
    struct timespec zero = {0, 0};
    if (!sigismember(before, SIGPIPE)) {
        sigemptyset(&pipe);
        sigaddset(&pipe, SIGPIPE);
        while (sigtimedwait(&pipe, NULL, &zero) < 0 && errno == EINTR);
    }
    pthread_sigmask(SIG_SETMASK, before, NULL);
}
#else
typedef int ff_signals;
static inline void ff_hold_sigpipe(ff_signals *before) { *before = 0; }
static inline void ff_drop_sigpipe(const ff_signals *before) { (void)before; }
#endif

/* Bytes of a file as they lie in the system's cache, without a copy of them where it offers that.
   0 at the end of the file. */
static inline Py_ssize_t ff_send_bytes_of_file(int fd, int file, off_t offset, size_t size) {
    char block[16384];
    ssize_t n;
#ifdef __linux__
    off_t start = offset;
    do n = sendfile(fd, file, &start, size); while (n < 0 && errno == EINTR);
    if (n >= 0 || (errno != EINVAL && errno != ENOSYS)) return n < 0 ? -errno : n;
    /* Of a file system that has no way to do it. */
#endif
    if (size > sizeof block) size = sizeof block;
    do n = pread(file, block, size, offset); while (n < 0 && errno == EINTR);
    if (n <= 0) return n < 0 ? -errno : 0;
    size = (size_t)n;
    do n = send(fd, block, size, MSG_DONTWAIT | MSG_NOSIGNAL); while (n < 0 && errno == EINTR);
    return n < 0 ? (errno == EWOULDBLOCK ? -EAGAIN : -errno) : n;
}

static inline Py_ssize_t ff_send_file(
    Py_ssize_t fd, const void *head, Py_ssize_t head_size, int file, long long offset,
    Py_ssize_t size
) {
    ssize_t n;
    Py_ssize_t sent = 0;
    if (head_size) {
        do n = send((int)fd, head, (size_t)head_size, MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE);
        while (n < 0 && errno == EINTR);
        if (n < 0) return errno == EWOULDBLOCK ? -EAGAIN : -errno;
        if (n < head_size) return n;
        sent = n;
    }
    n = ff_send_bytes_of_file((int)fd, file, (off_t)offset, (size_t)size);
    return n > 0 ? sent + n : sent ? sent : n;
}

static inline Py_ssize_t ff_accept(Py_ssize_t fd, int *is_inet) {
    struct sockaddr_storage peer;
    socklen_t size = sizeof peer;
    int s, on = 1;
    peer.ss_family = AF_UNSPEC;
#if defined(__linux__) || defined(__FreeBSD__)
    do s = accept4((int)fd, (struct sockaddr *)&peer, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    while (s < 0 && errno == EINTR);
    if (s < 0) return errno == EWOULDBLOCK ? -EAGAIN : -errno;
#else
    do s = accept((int)fd, (struct sockaddr *)&peer, &size); while (s < 0 && errno == EINTR);
    if (s < 0) return errno == EWOULDBLOCK ? -EAGAIN : -errno;
    fcntl(s, F_SETFD, FD_CLOEXEC);
    fcntl(s, F_SETFL, O_NONBLOCK);
#ifdef SO_NOSIGPIPE
    setsockopt(s, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
#endif
    *is_inet = peer.ss_family == AF_INET || peer.ss_family == AF_INET6;
    if (*is_inet)
        setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return s;
}

static inline int ff_shutdown(Py_ssize_t fd) {
    return shutdown((int)fd, SHUT_WR) ? -errno : 0;
}

static inline void ff_close(Py_ssize_t fd) { close((int)fd); }

static inline void ff_reset_at_close(Py_ssize_t fd) {
    struct linger none = {1, 0};
    setsockopt((int)fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
}

/* Whether both directions are closed, as far as the system tells (unix sockets do). */
static inline int ff_hung_up(Py_ssize_t fd) {
    struct pollfd p;
    p.fd = (int)fd;
    p.events = p.revents = 0;
    return poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR)) != 0;
}

static inline int ff_wait_to_recv(Py_ssize_t fd, int milliseconds) {
    struct pollfd p;
    p.fd = (int)fd;
    p.events = POLLIN;
    p.revents = 0;
    return poll(&p, 1, milliseconds) > 0;
}

static inline double ff_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline double ff_thread_cpu(void) {
    struct timespec t;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t)) return 0.0;
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
#endif

#ifdef _MSC_VER
#include <intrin.h>
static inline long ff_add(volatile long *counter, long n) {
    return _InterlockedExchangeAdd(counter, n) + n;
}
#else
static inline long ff_add(volatile long *counter, long n) {
    return __atomic_add_fetch(counter, n, __ATOMIC_SEQ_CST);
}
#endif

/* A lock that is nearly always free, for a thread that has the GIL, if there is one. Waiting for it
   gives the GIL up. */
#if PY_VERSION_HEX >= 0x030D0000
typedef PyMutex ff_mutex;
#define ff_lock(m) PyMutex_Lock(m)
#define ff_unlock(m) PyMutex_Unlock(m)
#define ff_free_mutex(m) ((void)(m))
#else
#include "pythread.h"
typedef struct {
    int held;
    int waiting;
    PyThread_type_lock door;    /* made when it is first needed; released once for who waits */
} ff_mutex;

static inline void ff_lock(ff_mutex *m) {
    while (m->held) {
        if (m->door == NULL && (m->door = PyThread_allocate_lock()) != NULL)
            PyThread_acquire_lock(m->door, WAIT_LOCK);
        m->waiting++;
        Py_BEGIN_ALLOW_THREADS
        if (m->door != NULL)
            PyThread_acquire_lock(m->door, WAIT_LOCK);
        Py_END_ALLOW_THREADS
        m->waiting--;
    }
    m->held = 1;
}

static inline void ff_unlock(ff_mutex *m) {
    m->held = 0;
    if (m->waiting && m->door != NULL)
        PyThread_release_lock(m->door);
}

static inline void ff_free_mutex(ff_mutex *m) {
    if (m->door != NULL) {
        PyThread_release_lock(m->door);
        PyThread_free_lock(m->door);
    }
}
#endif

#ifdef __linux__
#include <sys/epoll.h>
#define FF_HAVE_EPOLL 1

static inline int ff_epoll_create(void) {
    int fd = epoll_create1(EPOLL_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* Watch fd for `mask` (1 read, 2 write) instead of `before`; -1 and 0 for not at all. */
static inline int ff_epoll_watch(int epoll, int fd, int before, int mask, int once, int shared) {
    struct epoll_event event;
    memset(&event, 0, sizeof event);
    event.events = (mask & 1 ? EPOLLIN : 0) | (mask & 2 ? EPOLLOUT : 0)
        | (once ? EPOLLONESHOT : 0) | (shared && !once && before < 0 ? EPOLLEXCLUSIVE : 0);
    event.data.fd = fd;
    return epoll_ctl(epoll, mask <= 0 ? EPOLL_CTL_DEL : before < 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD,
                     fd, &event) ? -errno : 0;
}

static inline int ff_epoll_wait(int epoll, int *fds, int *masks, int size, int timeout) {
    struct epoll_event events[256];
    int i, n = epoll_wait(epoll, events, size, timeout);
    if (n < 0) return errno == EINTR ? 0 : -errno;
    for (i = 0; i < n; i++) {
        fds[i] = events[i].data.fd;
        masks[i] = (events[i].events & ~EPOLLOUT ? 1 : 0) | (events[i].events & ~EPOLLIN ? 2 : 0);
    }
    return n;
}
#else
#define FF_HAVE_EPOLL 0
static inline int ff_epoll_create(void) { return -ENOSYS; }
static inline int ff_epoll_watch(int epoll, int fd, int before, int mask, int once, int shared) {
    return -ENOSYS;
}
static inline int ff_epoll_wait(int epoll, int *fds, int *masks, int size, int timeout) {
    return -ENOSYS;
}
#endif

#endif
