/* Switching stacks. A worker is a stack that runs CUDA threads, one after another: a thread that
 * waits keeps its worker, one that ends leaves it to the next. Private to emulator.cpp. */
#ifndef LT_EMULATOR_FIBER_H
#define LT_EMULATOR_FIBER_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/emulator/sanitizer.h"

#if !defined(__x86_64__) && !defined(EMULATOR_UCONTEXT)
#define EMULATOR_UCONTEXT
#endif
#ifdef EMULATOR_UCONTEXT
#include <ucontext.h>
#endif

static const size_t STACK_BYTES = EMULATOR_ASAN ? 512 << 10 : 160 << 10;

struct worker {
#ifdef EMULATOR_UCONTEXT
    ucontext_t context;
#else
    void *stack_pointer;
#endif
    char *stack; /* STACK_BYTES above a guard page; of the host: as AddressSanitizer says */
    size_t stack_bytes;
    void *fake_stack; /* AddressSanitizer's */
    bool idle;
};

/* The worker that was left last: AddressSanitizer wants to know where the host's stack is. */
static worker *left_worker;

static void switch_finish(worker *to)
{
#if EMULATOR_ASAN
    const void *bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(to->fake_stack, &bottom, &bytes);
    left_worker->stack = static_cast<char *>(const_cast<void *>(bottom));
    left_worker->stack_bytes = bytes;
#else
    (void)to;
#endif
}

#ifndef EMULATOR_UCONTEXT
/* Saves what the System V ABI wants to survive a call, then goes on where `to` was left. */
extern "C" void emulator_switch_stack(void **save, void *to);
__asm__(".text\n"
        ".p2align 4\n"
        ".local emulator_switch_stack\n"
        ".type emulator_switch_stack, @function\n"
        "emulator_switch_stack:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n"
        ".size emulator_switch_stack, . - emulator_switch_stack\n");
#endif

/* Returns when somebody switches back to `from`. */
static inline void switch_worker(worker *from, worker *to)
{
    left_worker = from;
#if EMULATOR_ASAN
    __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->stack_bytes);
#endif
#ifdef EMULATOR_UCONTEXT
    swapcontext(&from->context, &to->context);
#else
    emulator_switch_stack(&from->stack_pointer, to->stack_pointer);
#endif
    switch_finish(from);
}

/* Makes `w` begin at main(), which never returns. What was on its stack is gone. */
static void worker_begin(worker *w, int number, void (*main)())
{
    /* Stacks that all start at the same place of a page would fight for the same lines of cache. */
    size_t shift = (size_t)number * 1088 % (32 << 10);
#if EMULATOR_ASAN
    __asan_unpoison_memory_region(w->stack, w->stack_bytes);
#endif
    w->fake_stack = nullptr;
    w->idle = true;
#ifdef EMULATOR_UCONTEXT
    getcontext(&w->context);
    w->context.uc_stack.ss_sp = w->stack;
    w->context.uc_stack.ss_size = w->stack_bytes - shift;
    w->context.uc_link = nullptr;
    makecontext(&w->context, main, 0);
#else
    uintptr_t *top = reinterpret_cast<uintptr_t *>(w->stack + w->stack_bytes - shift);
    *--top = 0; /* main's return address: stack traces end here */
    *--top = reinterpret_cast<uintptr_t>(main);
    for (int saved_register = 0; saved_register < 6; saved_register++)
        *--top = 0;
    w->stack_pointer = top;
#endif
}

static void worker_create(worker *w, int number, void (*main)())
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void *memory = mmap(nullptr, page + STACK_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE)) {
        perror("emulator: no memory for a stack");
        abort();
    }
    w->stack = static_cast<char *>(memory) + page;
    w->stack_bytes = STACK_BYTES;
    worker_begin(w, number, main);
}

#endif
