/* Makes the n-th change a process asks of a folder go wrong, below Python and TensorFlow: preload it, then call
 * `fault_arm`. Counted are the calls that create, write, link, rename or remove something in the folder, and, where
 * they are to fail, those that flush it: to a process that is killed a flush makes no difference. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static char folder[PATH_MAX];
static long due = -1, seen = 0;
static int kind = 0; /* a signal's number to send oneself, or an errno, negative, to fail with */

void fault_arm(const char *path, long number, int what) {
  strncpy(folder, path, sizeof folder - 1);
  due = number;
  seen = 0;
  kind = what;
}

long fault_seen(void) { return seen; }

static int counted(const char *path) { return due >= 0 && path && !strncmp(path, folder, strlen(folder)); }

static int counted_descriptor(int descriptor) {
  char name[64], path[PATH_MAX];
  if (due < 0) return 0;
  snprintf(name, sizeof name, "/proc/self/fd/%d", descriptor);
  ssize_t length = readlink(name, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return counted(path);
}

/* Whether the call is to fail; a signal sent to oneself is delivered before `kill` returns. */
static int strike(int is_counted) {
  if (!is_counted || seen++ != due) return 0;
  if (kind > 0) {
    kill(getpid(), kind);
    return 0;
  }
  errno = -kind;
  return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define WRAP(type, name, parameters, arguments, is_counted) \
  type name parameters { return strike(is_counted) ? (type)-1 : REAL(name) arguments; }

WRAP(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size), counted_descriptor(fd))
WRAP(int, fsync, (int fd), (fd), kind < 0 && counted_descriptor(fd))
WRAP(int, mkdir, (const char *path, mode_t mode), (path, mode), counted(path))
WRAP(int, rename, (const char *from, const char *to), (from, to), counted(to))
WRAP(int, renameat2, (int a, const char *from, int b, const char *to, unsigned flags), (a, from, b, to, flags),
     counted(to))
WRAP(int, link, (const char *from, const char *to), (from, to), counted(to))
WRAP(int, linkat, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags),
     counted(to))
WRAP(int, unlink, (const char *path), (path), counted(path))
WRAP(int, unlinkat, (int fd, const char *path, int flags), (fd, path, flags),
     counted_descriptor(fd) || counted(path))
WRAP(int, rmdir, (const char *path), (path), counted(path))

size_t fwrite(const void *data, size_t size, size_t count, FILE *stream) {
  return strike(due >= 0 && counted_descriptor(fileno(stream))) ? 0 : REAL(fwrite)(data, size, count, stream);
}

#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    va_list rest; \
    va_start(rest, flags); \
    mode_t mode = va_arg(rest, mode_t); \
    va_end(rest); \
    return strike((flags & O_CREAT) && counted(path)) ? -1 : REAL(name)(path, flags, mode); \
  }
OPEN(open)
OPEN(open64)
