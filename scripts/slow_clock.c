/* A clock that runs at half speed for a program and all that it starts, so that a machine seems twice as fast.
 *
 *     cc -O2 -shared -fPIC -o slow_clock.so slow_clock.c -ldl
 *     LD_PRELOAD=$PWD/slow_clock.so SLOW_CLOCK=0.5 pytest -m long …
 *
 * Every clock that a program can read runs at SLOW_CLOCK times the true speed, and every wait with a limit waits as
 * much longer. Processor time is counted in true seconds; sysconf(_SC_CLK_TCK) says how many ticks one slow second has.
 * Linux with glibc only. The monotonic clock is scaled from its zero and the date from one fixed moment, so that all
 * processes agree.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define BILLION 1000000000LL
#define DATE_ZERO 1750000000LL /* seconds: the moment at which both calendars agree */
#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static double speed(void) {
    static double value;
    if (value == 0.0) {
        const char *text = getenv("SLOW_CLOCK");
        value = text ? atof(text) : 1.0;
        if (value <= 0.0) value = 1.0;
    }
    return value;
}

static int64_t whole(const struct timespec *t) { return t->tv_sec * BILLION + t->tv_nsec; }

static struct timespec split(int64_t ns) { return (struct timespec){ns / BILLION, ns % BILLION}; }

static int64_t zero(clockid_t clock) {
    return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE ? DATE_ZERO * BILLION : 0;
}

static int is_wall(clockid_t clock) {
    return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_MONOTONIC ||
           clock == CLOCK_MONOTONIC_COARSE || clock == CLOCK_MONOTONIC_RAW || clock == CLOCK_BOOTTIME;
}

static struct timespec slow(clockid_t clock, struct timespec t) {
    return split(zero(clock) + (int64_t)((whole(&t) - zero(clock)) * (long double)speed()));
}

static struct timespec true_moment(clockid_t clock, const struct timespec *t) {
    return split(zero(clock) + (int64_t)((whole(t) - zero(clock)) / (long double)speed()));
}

static struct timespec true_span(const struct timespec *t) { return split((int64_t)(whole(t) / speed())); }

static int true_ms(int ms) { return ms > 0 ? (int)(ms / speed()) : ms; }

/* A condition does not say which clock it goes by: no monotonic clock has come to a billion seconds. */
static clockid_t guess(const struct timespec *t) { return t->tv_sec < 1000000000 ? CLOCK_MONOTONIC : CLOCK_REALTIME; }

int clock_gettime(clockid_t clock, struct timespec *t) {
    int result = NEXT(clock_gettime)(clock, t);
    if (result == 0 && is_wall(clock)) *t = slow(clock, *t);
    return result;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    *t = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *t, struct timespec *left) {
    struct timespec until = flags & TIMER_ABSTIME ? true_moment(clock, t) : true_span(t);
    int result = NEXT(clock_nanosleep)(clock, flags, &until, left);
    if (result == EINTR && left && !(flags & TIMER_ABSTIME)) *left = split((int64_t)(whole(left) * speed()));
    return result;
}

int nanosleep(const struct timespec *t, struct timespec *left) {
    int result = clock_nanosleep(CLOCK_MONOTONIC, 0, t, left);
    if (result) errno = result;
    return result ? -1 : 0;
}

int usleep(useconds_t us) {
    struct timespec t = split(us * 1000LL);
    return nanosleep(&t, NULL);
}

unsigned sleep(unsigned seconds) {
    struct timespec t = {seconds, 0}, left = {0, 0};
    return nanosleep(&t, &left) ? (unsigned)left.tv_sec : 0;
}

int sem_timedwait(sem_t *restrict sem, const struct timespec *restrict t) {
    struct timespec until = true_moment(CLOCK_REALTIME, t);
    return NEXT(sem_timedwait)(sem, &until);
}

int sem_clockwait(sem_t *restrict sem, clockid_t clock, const struct timespec *restrict t) {
    struct timespec until = true_moment(clock, t);
    return NEXT(sem_clockwait)(sem, clock, &until);
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict t) {
    static __typeof__(&pthread_cond_timedwait) next;
    if (!next) next = (__typeof__(next))dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    struct timespec until = true_moment(guess(t), t);
    return next(cond, mutex, &until);
}

int pthread_cond_clockwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex, clockid_t clock,
                           const struct timespec *restrict t) {
    struct timespec until = true_moment(clock, t);
    return NEXT(pthread_cond_clockwait)(cond, mutex, clock, &until);
}

int poll(struct pollfd *files, nfds_t count, int ms) { return NEXT(poll)(files, count, true_ms(ms)); }

int ppoll(struct pollfd *files, nfds_t count, const struct timespec *t, const sigset_t *mask) {
    struct timespec span = t ? true_span(t) : (struct timespec){0, 0};
    return NEXT(ppoll)(files, count, t ? &span : NULL, mask);
}

int epoll_wait(int file, struct epoll_event *events, int count, int ms) {
    return NEXT(epoll_wait)(file, events, count, true_ms(ms));
}

int select(int count, fd_set *restrict in, fd_set *restrict out, fd_set *restrict odd, struct timeval *restrict t) {
    struct timeval span = {0, 0};
    if (t) {
        int64_t us = (int64_t)((t->tv_sec * 1000000LL + t->tv_usec) / speed());
        span = (struct timeval){us / 1000000, us % 1000000};
    }
    return NEXT(select)(count, in, out, odd, t ? &span : NULL);
}

long sysconf(int name) {
    long value = NEXT(sysconf)(name);
    return name == _SC_CLK_TCK ? (long)(value / speed()) : value;
}
