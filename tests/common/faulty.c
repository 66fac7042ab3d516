/* Makes a process's disk or wall clock fail, through LD_PRELOAD, because no test could do that to the real ones
 * without root.
 *
 * The file named by FAULTY contains one line, read anew at every call: an errno with which writing, syncing and
 * growing a data file (a path that contains "/chat.db") fails, 0 for none, -1 for calls that hang until that changes,
 * and below that the milliseconds that syncing takes; and the seconds by which the wall clock is ahead. A call that
 * hangs first creates an empty file: that path with ".held" appended. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void orders(long *error, long *ahead)
{
    char text[64] = "";
    const char *path = getenv("FAULTY");
    int saved = errno;
    int file = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC) : -1;
    if (file >= 0) {
        if (read(file, text, sizeof text - 1) < 0) text[0] = 0;
        close(file);
    }
    *error = *ahead = 0;
    sscanf(text, "%ld %ld", error, ahead);
    errno = saved;
}

/* Whether a call on this file fails; errno is set then. */
static int fails(int file, int is_sync)
{
    char link[64], path[512];
    long error, ahead;
    orders(&error, &ahead);
    if (error == 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    if (!strstr(path, "/chat.db")) return 0;
    if (error < -1) {
        if (is_sync) usleep(-error * 1000);
        return 0;
    }
    if (error < 0) {
        snprintf(path, sizeof path, "%s.held", getenv("FAULTY"));
        close((int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    }
    while (error < 0) {
        usleep(10000);
        orders(&error, &ahead);
    }
    errno = (int)error;
    return error != 0;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int file, const void *bytes, size_t count)
{
    return fails(file, 0) ? -1 : REAL(write)(file, bytes, count);
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t at)
{
    return fails(file, 0) ? -1 : REAL(pwrite)(file, bytes, count, at);
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t at)
{
    return fails(file, 0) ? -1 : REAL(pwrite64)(file, bytes, count, at);
}

int ftruncate(int file, off_t length)
{
    return fails(file, 0) ? -1 : REAL(ftruncate)(file, length);
}

int ftruncate64(int file, off64_t length)
{
    return fails(file, 0) ? -1 : REAL(ftruncate64)(file, length);
}

int fsync(int file)
{
    return fails(file, 1) ? -1 : REAL(fsync)(file);
}

int fdatasync(int file)
{
    return fails(file, 1) ? -1 : REAL(fdatasync)(file);
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int answer = REAL(clock_gettime)(clock, time);
    if (clock == CLOCK_REALTIME && answer == 0) {
        long error, ahead;
        orders(&error, &ahead);
        time->tv_sec += ahead;
    }
    return answer;
}
