/*
 * A disk that fails at one chosen moment: preloaded into meshd, and into nothing that meshd starts.
 *
 *   DISK_DIR    only files below this directory count
 *   DISK_FAULT  <class>:<fault>:<n>[+]: the nth operation of the class meets the fault; with +, all after it as well
 *               classes: write (write, pwrite), sync (fsync, fdatasync)
 *               faults:  eio, enospc  nothing happens, and the call says so
 *                        torn         half is written, and the call says EIO
 *                        short        half is written, and the call says how much; the caller goes on with the rest
 *                        die          half is written (of a sync: nothing is synced), and the process is killed
 *   DISK_LOG    what happened: "fired <class> <path>", and "again <class> <path>" for every later operation on a file
 *               whose sync failed, until it is closed
 *
 * What goes past libc is not seen (rustix makes its own system calls): strace injects there.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { DESCRIPTORS = 4096 };

static const char *dir, *class, *fault;
static size_t dir_len;
static long at;
static int from_then_on, log_fd = -1;
static atomic_long seen;
/* Descriptors whose sync failed. */
static atomic_char failed[DESCRIPTORS];

__attribute__((constructor)) static void begin(void)
{
	const char *spec = getenv("DISK_FAULT"), *log = getenv("DISK_LOG");
	char *copy, *rest, *n;

	dir = getenv("DISK_DIR");
	if (!spec || !dir || !log)
		return;
	dir_len = strlen(dir);
	log_fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	copy = strdup(spec);
	class = strtok_r(copy, ":", &rest);
	fault = strtok_r(NULL, ":", &rest);
	n = strtok_r(NULL, ":", &rest);
	if (!class || !fault || !n)
		abort();
	at = strtol(n, NULL, 10);
	from_then_on = n[strlen(n) - 1] == '+';
}

static int is_fault(const char *name)
{
	return strcmp(fault, name) == 0;
}

static void tell(const char *what, const char *of, const char *path)
{
	char line[PATH_MAX + 64];
	int len = snprintf(line, sizeof line, "%s %s %s\n", what, of, path);

	syscall(SYS_write, log_fd, line, len);
}

/* Whether this operation meets the fault. */
static int meets(int fd, const char *of)
{
	char link[64], path[PATH_MAX];
	ssize_t len;
	long number;

	if (log_fd < 0 || fd == log_fd)
		return 0;
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	len = readlink(link, path, sizeof path - 1);
	if (len < (ssize_t)dir_len || strncmp(path, dir, dir_len) != 0)
		return 0;
	path[len] = 0;
	if (fd < DESCRIPTORS && failed[fd])
		tell("again", of, path);
	if (strcmp(class, of) != 0)
		return 0;
	number = ++seen;
	if (number != at && !(from_then_on && number > at))
		return 0;
	tell("fired", of, path);
	return 1;
}

static ssize_t fail(int error)
{
	errno = error;
	return -1;
}

static ssize_t writes(int fd, const void *bytes, size_t size, off_t offset, int positioned)
{
	ssize_t done;
	int bad = meets(fd, "write");
	size_t part = size;

	if (bad && (is_fault("eio") || is_fault("enospc")))
		return fail(is_fault("eio") ? EIO : ENOSPC);
	if (bad && size > 1)
		part = size / 2;
	done = positioned ? syscall(SYS_pwrite64, fd, bytes, part, offset) : syscall(SYS_write, fd, bytes, part);
	if (bad && is_fault("die"))
		syscall(SYS_kill, getpid(), SIGKILL);
	if (bad && is_fault("torn"))
		return fail(EIO);
	return done;
}

ssize_t write(int fd, const void *bytes, size_t size)
{
	return writes(fd, bytes, size, 0, 0);
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset)
{
	return writes(fd, bytes, size, offset, 1);
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t offset)
{
	return writes(fd, bytes, size, offset, 1);
}

static int syncs(int fd, long number)
{
	if (meets(fd, "sync")) {
		if (is_fault("die"))
			syscall(SYS_kill, getpid(), SIGKILL);
		if (fd >= 0 && fd < DESCRIPTORS)
			failed[fd] = 1;
		return fail(is_fault("enospc") ? ENOSPC : EIO);
	}
	return syscall(number, fd);
}

int fsync(int fd)
{
	return syncs(fd, SYS_fsync);
}

int fdatasync(int fd)
{
	return syncs(fd, SYS_fdatasync);
}

int close(int fd)
{
	if (fd >= 0 && fd < DESCRIPTORS)
		failed[fd] = 0;
	return syscall(SYS_close, fd);
}
