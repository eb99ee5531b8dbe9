/*
 * Preloaded into user-mode Linux 6.1 on processors whose registers are wider than those of AVX.
 *
 * That kernel keeps 832 bytes of a process's registers, and where the host's kernel has more of them it takes
 * only all or nothing (EFAULT). So all are written: what user-mode Linux has given, and behind it what was read
 * last into the same place. That place belongs to one thread; one that has had none yet gets initial values.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/types.h>

#define WHOLE 16384
#define XSTATE_BV 512 /* which registers are not as they are initially: Intel SDM 13.4.2 */
#define X87_SSE_AVX 7UL
#define PLACES 65536
/* Not on the stack: that of a thread of this kernel is small. */
static unsigned char whole[WHOLE];
static struct {
    void *key;
    unsigned char *rest;
} kept[PLACES];

static unsigned slot(void *key) {
    unsigned at = ((unsigned long)key >> 4) * 2654435761u % PLACES;
    while (kept[at].key && kept[at].key != key)
        at = (at + 1) % PLACES;
    return at;
}

static long (*real)(enum __ptrace_request, pid_t, void *, void *);
__attribute__((constructor)) static void find(void)
{
    real = dlsym(RTLD_NEXT, "ptrace");
}

long ptrace(enum __ptrace_request request, ...) {
    va_list list;
    va_start(list, request);
    pid_t pid = va_arg(list, pid_t);
    void *address = va_arg(list, void *);
    struct iovec *asked = va_arg(list, void *);
    va_end(list);
    if ((long)address != NT_X86_XSTATE || (request != PTRACE_GETREGSET && request != PTRACE_SETREGSET))
        return real(request, pid, address, asked);
    struct iovec all = { whole, sizeof whole };
    long status = real(PTRACE_GETREGSET, pid, address, &all);
    if (status || all.iov_len <= asked->iov_len)
        return real(request, pid, address, asked);
    unsigned at = slot(asked->iov_base);
    size_t rest = all.iov_len - asked->iov_len;
    if (request == PTRACE_GETREGSET) {
        if (!kept[at].key) {
            kept[at].rest = malloc(rest);
            kept[at].key = asked->iov_base;
        }
        memcpy(asked->iov_base, whole, asked->iov_len);
        memcpy(kept[at].rest, whole + asked->iov_len, rest);
        return 0;
    }
    memcpy(whole, asked->iov_base, asked->iov_len);
    if (kept[at].key) {
        memcpy(whole + asked->iov_len, kept[at].rest, rest);
    } else {
        *(unsigned long *)(whole + XSTATE_BV) &= X87_SSE_AVX;
        memset(whole + asked->iov_len, 0, rest);
    }
    return real(PTRACE_SETREGSET, pid, address, &all);
}
