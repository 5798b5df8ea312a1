/* LD_PRELOAD: operation number FAIL_AT on a file whose name contains FAIL_NAME, and FAIL_FOR - 1 more, find a full disk. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static long operations;

static int full(int descriptor) {
    char link[64], path[4096];
    const char *name = getenv("FAIL_NAME"), *at = getenv("FAIL_AT"), *count = getenv("FAIL_FOR");
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0 || !name || !at) return 0;
    path[size] = 0;
    if (!strstr(path, name)) return 0;
    long number = __sync_add_and_fetch(&operations, 1), first = atol(at);
    if (number < first || number >= first + (count ? atol(count) : 1)) return 0;
    if (number == first) dprintf(2, "FULL\n");
    errno = ENOSPC;
    return 1;
}

#define REAL(name, type, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))

ssize_t write(int d, const void *b, size_t n) { return full(d) ? -1 : REAL("write", ssize_t, int, const void *, size_t)(d, b, n); }
ssize_t pwrite(int d, const void *b, size_t n, off_t o) { return full(d) ? -1 : REAL("pwrite", ssize_t, int, const void *, size_t, off_t)(d, b, n, o); }
ssize_t pwrite64(int d, const void *b, size_t n, off64_t o) { return full(d) ? -1 : REAL("pwrite64", ssize_t, int, const void *, size_t, off64_t)(d, b, n, o); }
int ftruncate(int d, off_t n) { return full(d) ? -1 : REAL("ftruncate", int, int, off_t)(d, n); }
int ftruncate64(int d, off64_t n) { return full(d) ? -1 : REAL("ftruncate64", int, int, off64_t)(d, n); }
int fsync(int d) { return full(d) ? -1 : REAL("fsync", int, int)(d); }
int fdatasync(int d) { return full(d) ? -1 : REAL("fdatasync", int, int)(d); }
