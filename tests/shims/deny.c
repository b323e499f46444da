/*
 * Runs a program on a machine that denies it some system calls, as the filters of containers do it.
 *
 *   deny <what>... -- <program> [argument]...
 *
 *   namespaces       no namespace of any kind
 *   user-namespaces  no user namespace, and all others
 *   mounts           nothing is mounted, and no mount is changed
 *   landlock         as a kernel without it
 *   filters          no further system call filter
 *
 * Needs CAP_SYS_ADMIN, so that nothing but the filter changes: `no_new_privs` stays as it was. Exits with 125 when the
 * filter cannot be installed.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    /* CLONE_NEWUSER, and with it mount, cgroup, UTS, IPC, process and network namespaces. */
    USER = 0x10000000,
    ALL = USER | 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000,
    INSTRUCTIONS = 256,
};

static struct sock_filter code[INSTRUCTIONS];
static unsigned short used;

static void add(struct sock_filter instruction)
{
    if (used < INSTRUCTIONS)
        code[used++] = instruction;
}

static void load(unsigned offset)
{
    add((struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset));
}

static void answer(unsigned error)
{
    add((struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error));
}

/* Denies a call whatever its arguments are. */
static void call(long number, unsigned error)
{
    load(offsetof(struct seccomp_data, nr));
    add((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1));
    answer(error);
}

/* Denies a call whose first argument meets the test (BPF_JSET: any of these bits; BPF_JEQ: this value). */
static void call_with(long number, unsigned short test, unsigned value, unsigned error)
{
    load(offsetof(struct seccomp_data, nr));
    add((struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 3));
    load(offsetof(struct seccomp_data, args[0]));
    add((struct sock_filter)BPF_JUMP(BPF_JMP | test | BPF_K, value, 0, 1));
    answer(error);
}

static void namespaces(unsigned flags)
{
    call_with(SYS_unshare, BPF_JSET, flags, EPERM);
    call_with(SYS_clone, BPF_JSET, flags, EPERM);
    /* Its flags are in memory, where no filter sees them. */
    call(SYS_clone3, ENOSYS);
}

static int deny(const char *what)
{
    static const long mounts[] = {SYS_mount,      SYS_umount2,      SYS_pivot_root,    SYS_open_tree,
                                  SYS_move_mount, SYS_fsopen,       SYS_mount_setattr};
    if (!strcmp(what, "namespaces")) {
        namespaces(ALL);
    } else if (!strcmp(what, "user-namespaces")) {
        namespaces(USER);
    } else if (!strcmp(what, "mounts")) {
        for (size_t nth = 0; nth < sizeof mounts / sizeof *mounts; nth++)
            call(mounts[nth], EPERM);
    } else if (!strcmp(what, "landlock")) {
        call(SYS_landlock_create_ruleset, ENOSYS);
    } else if (!strcmp(what, "filters")) {
        call(SYS_seccomp, EPERM);
        call_with(SYS_prctl, BPF_JEQ, PR_SET_SECCOMP, EPERM);
    } else {
        return -1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    int at = 1;
    for (; at < argc && strcmp(argv[at], "--"); at++)
        if (deny(argv[at])) {
            fprintf(stderr, "deny: what is %s?\n", argv[at]);
            return 125;
        }
    if (at + 1 >= argc) {
        fprintf(stderr, "deny: no program\n");
        return 125;
    }
    add((struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    struct sock_fprog program = {.len = used, .filter = code};
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
        perror("deny: the filter");
        return 125;
    }
    execvp(argv[at + 1], argv + at + 1);
    perror(argv[at + 1]);
    return 127;
}
