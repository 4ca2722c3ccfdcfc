/* Loaded before the C library (LD_PRELOAD): lets one system call of a kind fail, on files of the current folder. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/file.h>
#include <unistd.h>

#define KINDS 16

static char folder[PATH_MAX], kind[16], kinds[KINDS][16];
static int chosen, number, counts[KINDS]; /* which call fails, with which errno, and how many of each kind there were */

/* From now on, count the calls of each kind, and let the n-th of one kind fail, or none if it is 0. */
void plan(const char *where, const char *what, int nth, int error) {
  strncpy(folder, where, sizeof folder - 1);
  strncpy(kind, what, sizeof kind - 1);
  chosen = nth, number = error;
}

int counted(const char *what) {
  for (int i = 0; i < KINDS; i++)
    if (!strcmp(kinds[i], what)) return counts[i];
  return 0;
}

/* Where calls of a kind are counted; the first threads that meet may take two places, of which one is lost. */
static int *count_of(const char *what) {
  int i = 0;
  while (*kinds[i] && strcmp(kinds[i], what)) i++;
  strcpy(kinds[i], what);
  return &counts[i];
}

static int fails(const char *what, const char *path) {
  if (!*folder || !path) return 0;
  if (*path == '/' && strncmp(path, folder, strlen(folder))) return 0;
  int nth = __atomic_add_fetch(count_of(what), 1, __ATOMIC_SEQ_CST);
  if (strcmp(what, kind) || nth != chosen) return 0;
  errno = number;
  return 1;
}

static int fails_on(const char *what, int descriptor) {
  char link[64], path[PATH_MAX];
  if (!*folder) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t size = readlink(link, path, sizeof path - 1);
  if (size <= 0 || *path != '/') return 0;
  path[size] = 0;
  return fails(what, path);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define WRAP(result, name, condition, failed, declared, ...) \
  result name declared { return condition ? failed : NEXT(name)(__VA_ARGS__); }
#define MODE(flags, mode)               \
  mode_t mode = 0;                      \
  if (flags & (O_CREAT | O_TMPFILE)) {  \
    va_list more;                       \
    va_start(more, flags);              \
    mode = va_arg(more, mode_t);        \
    va_end(more);                       \
  }

int open(const char *path, int flags, ...) {
  MODE(flags, mode)
  return fails("open", path) ? -1 : NEXT(open)(path, flags, mode);
}
int open64(const char *path, int flags, ...) {
  MODE(flags, mode)
  return fails("open", path) ? -1 : NEXT(open64)(path, flags, mode);
}
WRAP(DIR *, opendir, fails("opendir", path), NULL, (const char *path), path)
WRAP(ssize_t, read, fails_on("read", file), -1, (int file, void *data, size_t size), file, data, size)
WRAP(ssize_t, pread, fails_on("read", file), -1, (int file, void *data, size_t size, off_t at), file, data, size, at)
WRAP(ssize_t, pread64, fails_on("read", file), -1, (int file, void *data, size_t size, off64_t at), file, data, size, at)
WRAP(ssize_t, write, fails_on("write", file), -1, (int file, const void *data, size_t size), file, data, size)
WRAP(int, fsync, fails_on("fsync", file), -1, (int file), file)
WRAP(int, ftruncate, fails_on("truncate", file), -1, (int file, off_t size), file, size)
WRAP(int, ftruncate64, fails_on("truncate", file), -1, (int file, off64_t size), file, size)
WRAP(int, flock, fails_on("flock", file), -1, (int file, int operation), file, operation)
WRAP(int, rename, fails("rename", from), -1, (const char *from, const char *to), from, to)
WRAP(int, unlink, fails("unlink", path), -1, (const char *path), path)
WRAP(int, mkdir, fails("mkdir", path), -1, (const char *path, mode_t mode), path, mode)
WRAP(int, rmdir, fails("rmdir", path), -1, (const char *path), path)
WRAP(void *, mmap, file >= 0 && fails_on("mmap", file), MAP_FAILED,
     (void *at, size_t size, int protection, int flags, int file, off_t offset), at, size, protection, flags, file, offset)
WRAP(void *, mmap64, file >= 0 && fails_on("mmap", file), MAP_FAILED,
     (void *at, size_t size, int protection, int flags, int file, off64_t offset), at, size, protection, flags, file, offset)
