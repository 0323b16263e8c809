/* The machine: runs the threads of a block as fibers, lets them meet at barriers and warp
 * operations, and finds what they do wrong. Blocks run one after another. */
#include "tests/emulator/emulator.h"
#include "tests/emulator/fiber.h"
#include "tests/emulator/machine.h"

#include <map>
#include <vector>

#include <signal.h>
#include <stdarg.h>
#include <string.h>

enum { MAX_THREADS = 1024, MAX_WARPS = MAX_THREADS / 32, BARRIERS = 16, GUARD = 1024 };

/* A 16-byte copy by cp.async, until its thread has waited for it. */
struct async_copy {
    void *to;
    const void *from;
    int valid;
    unsigned group;
};

struct thread {
    uint3 index;
    int warp, lane;
    worker *on; /* null: not started */
    /* Where it waits: at a warp operation, or when `name` is null at barrier `barrier`. */
    const char *name;
    int barrier;
    uint32_t mask;
    emulator_exchange *exchange;
    /* cp.async: copies not waited for, oldest first from `first_copy`; the group being filled. */
    std::vector<async_copy> copies;
    size_t first_copy;
    unsigned group;
};

struct warp {
    uint32_t lanes; /* that exist */
    uint32_t live, ready;
    uint32_t meeting;    /* wait at warp operations */
    uint32_t at_barrier; /* wait at barriers */
    void *requests[32];
};

struct barrier {
    int arrived, expected;
    int votes, result;
    uint32_t lanes[MAX_WARPS];
};

/* One block at a time on one host thread: plain variables. */
static thread threads[MAX_THREADS];
static warp warps[MAX_WARPS];
static barrier barriers[BARRIERS];
static int thread_count, warp_count, live_count;
static uint32_t ready_warps;
static thread *self;
static worker host;
static worker workers[MAX_THREADS];
static int worker_count;
static std::vector<worker *> idle_workers;
static const emulator_kernel *kernel_running;
static bool failed;
static std::string failure;

const uint3 *emulator_thread_index;
uint3 emulator_block_index;
dim3 emulator_block_dim, emulator_grid_dim;
unsigned char *emulator_shared;
uint64_t emulator_kernels_run, emulator_blocks_run;

/* --- Settings ---------------------------------------------------------------------------- */

static int order = EMULATOR_FORWARD;
static int late = -1; /* as the order says */
static uint64_t random_state;
static void (*error_handler)(const char *message);

uint64_t emulator_setting(const char *name, uint64_t otherwise)
{
    const char *value = getenv(name);
    return value && *value ? strtoull(value, nullptr, 0) : otherwise;
}

/* Which of `names` an environment variable holds; -1 when it is not set. */
static int choice(const char *variable, const std::vector<const char *> &names)
{
    const char *value = getenv(variable);
    if (!value || !*value) return -1;
    for (size_t i = 0; i < names.size(); i++)
        if (strcmp(value, names[i]) == 0) return (int)i;
    fprintf(stderr, "emulator: %s=%s is unknown\n", variable, value);
    exit(1);
}

/* What holds until a test says otherwise. */
__attribute__((constructor)) static void read_environment()
{
    int named = choice("EMULATOR_ORDER", {"forward", "reverse", "random"});
    if (named >= 0) order = named;
    late = choice("EMULATOR_ASYNC", {"eager", "late"});
    emulator_set_seed(emulator_setting("EMULATOR_SEED", 1));
}

void emulator_set_order(int new_order)
{
    order = new_order;
}

void emulator_set_seed(uint64_t seed)
{
    random_state = seed * 0x9E3779B97F4A7C15u + 1;
}

void emulator_set_late(int new_late)
{
    late = new_late;
}

bool emulator_is_late()
{
    return late >= 0 ? late : order != EMULATOR_FORWARD;
}

void emulator_on_error(void (*handler)(const char *message))
{
    error_handler = handler;
}

/* splitmix64 */
static uint64_t random_word()
{
    uint64_t x = random_state += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

/* --- Errors ------------------------------------------------------------------------------ */

static std::string format_list(const char *format, va_list list)
{
    char text[1024];
    vsnprintf(text, sizeof text, format, list);
    return text;
}

static std::string format_string(const char *format, ...) __attribute__((format(printf, 1, 2)));
static std::string format_string(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    std::string text = format_list(format, list);
    va_end(list);
    return text;
}

void emulator_report(const std::string &message)
{
    if (error_handler) {
        error_handler(message.c_str());
        return;
    }
    fflush(stdout);
    fprintf(stderr, "emulator: %s\n", message.c_str());
    abort();
}

static std::string where()
{
    const uint3 &b = emulator_block_index;
    return format_string("%s: block (%u,%u,%u)", kernel_running->operation.c_str(), b.x, b.y, b.z);
}

static std::string name_thread(const thread *t)
{
    return format_string("thread (%u,%u,%u)", t->index.x, t->index.y, t->index.z);
}

/* Leaves the thread where it is, for good: the block ends, and the host tells the handler of
 * `failure`. Nothing on the thread's stack may own memory, for nobody will free it. */
[[noreturn]] static void leave()
{
    if (!error_handler) emulator_report(failure); /* aborts here, so that a debugger sees why */
    failed = true;
    switch_worker(self->on, &host);
    abort();
}

void emulator_fail(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    if (!self) {
        vfprintf(stderr, format, list);
        fprintf(stderr, ": device code outside of a kernel\n");
        abort();
    }
    failure = where() + ", " + name_thread(self) + ": " + format_list(format, list);
    va_end(list);
    leave();
}

struct wait_name {
    char text[80];
};

static wait_name name_wait(const thread *t)
{
    wait_name name;
    if (t->name)
        snprintf(name.text, sizeof name.text, "%s of lanes %08x", t->name, t->mask);
    else if (t->barrier)
        snprintf(name.text, sizeof name.text, "barrier %d", t->barrier);
    else
        snprintf(name.text, sizeof name.text, "__syncthreads");
    return name;
}

static std::string describe_deadlock()
{
    std::map<std::string, std::pair<int, const thread *>> groups;
    for (int i = 0; i < thread_count; i++) {
        const thread *t = &threads[i];
        bool live = warps[t->warp].live >> t->lane & 1;
        auto &group = groups[live ? std::string("wait at ") + name_wait(t).text : "have exited"];
        if (group.first++ == 0) group.second = t;
    }
    std::string text = where() + ": deadlock:";
    for (const auto &group : groups)
        text += format_string(" %d threads %s (first: %s);", group.second.first,
                              group.first.c_str(), name_thread(group.second.second).c_str());
    return text;
}

[[noreturn]] static void fail_deadlock()
{
    failure = describe_deadlock();
    leave();
}

/* --- Who goes next ----------------------------------------------------------------------- */

static int warp_turn; /* in random order, the warp that is asked first */

/* The bit of `set`, which is not empty, that the order wants first. */
static int pick(uint32_t set, int turn)
{
    if (order == EMULATOR_FORWARD) return __builtin_ctz(set);
    if (order == EMULATOR_REVERSE) return 31 - __builtin_clz(set);
    turn &= 31;
    uint32_t rotated = turn ? set >> turn | set << (32 - turn) : set;
    return (__builtin_ctz(rotated) + turn) & 31;
}

/* Takes the next thread; null when none is ready. The same warp goes on for as long as it can, so
 * that warps get as far apart as barriers allow. */
static thread *take_ready()
{
    if (!ready_warps) return nullptr;
    int number = pick(ready_warps, warp_turn);
    warp *w = &warps[number];
    int lane = pick(w->ready, order == EMULATOR_RANDOM ? (int)(random_word() >> 32) : 0);
    w->ready &= ~(1u << lane);
    if (!w->ready) ready_warps &= ~(1u << number);
    return &threads[number * 32 + lane];
}

static void make_ready(int number, uint32_t lanes)
{
    if (!lanes) return;
    warps[number].ready |= lanes;
    ready_warps |= 1u << number;
}

static void worker_main();

static worker *take_worker()
{
    if (idle_workers.empty()) {
        worker_create(&workers[worker_count], worker_count, worker_main);
        idle_workers.push_back(&workers[worker_count++]);
    }
    worker *w = idle_workers.back();
    idle_workers.pop_back();
    w->idle = false;
    return w;
}

static void put_worker(worker *w)
{
    w->idle = true;
    idle_workers.push_back(w);
}

static void become(thread *t)
{
    self = t;
    emulator_thread_index = &t->index;
}

/* Runs `next` from worker `from`. Returns when `from` is run again. */
static void run_thread(worker *from, thread *next)
{
    become(next);
    if (!next->on) next->on = take_worker();
    switch_worker(from, next->on);
}

/* The calling thread waits: others run until somebody has made it ready. */
static void wait_here()
{
    thread *next = take_ready();
    if (!next) fail_deadlock();
    run_thread(self->on, next);
}

static void thread_end();

/* Threads that have not started need no stack of their own yet: they start on that of one that has
 * ended. So a kernel without barriers runs on a single stack, without a switch. */
static void worker_main()
{
    switch_finish(self->on);
    for (;;) {
        kernel_running->body();
        thread_end();
        worker *mine = self->on;
        self->on = nullptr;
        thread *next = take_ready();
        if (next && !next->on) {
            become(next);
            next->on = mine;
            continue;
        }
        if (!next && live_count) {
            self->on = mine;
            fail_deadlock();
        }
        put_worker(mine);
        if (next)
            run_thread(mine, next);
        else
            switch_worker(mine, &host);
    }
}

static void thread_end()
{
    warp *w = &warps[self->warp];
    if (self->first_copy < self->copies.size())
        emulator_fail("exits with %zu asynchronous copies that it has not waited for",
                      self->copies.size() - self->first_copy);
    if (barriers[0].arrived)
        emulator_fail("exits while %d threads of the block wait at __syncthreads",
                      barriers[0].arrived);
    if (w->at_barrier)
        emulator_fail("exits while lanes %08x of its warp wait at a barrier", w->at_barrier);
    for (uint32_t rest = w->meeting; rest; rest &= rest - 1) {
        const thread *t = &threads[self->warp * 32 + __builtin_ctz(rest)];
        if (t->mask >> self->lane & 1)
            emulator_fail("exits while lane %d waits for it at %s", t->lane, name_wait(t).text);
    }
    w->live &= ~(1u << self->lane);
    live_count--;
}

/* --- Meeting ----------------------------------------------------------------------------- */

/* The calling thread is the last of `mask` to come: do all mean the same operation? */
static void check_same_operation(uint32_t mask)
{
    for (uint32_t rest = mask; rest; rest &= rest - 1) {
        const thread *t = &threads[self->warp * 32 + __builtin_ctz(rest)];
        if (t->mask != self->mask || t->exchange != self->exchange || t->name != self->name)
            emulator_fail("divergence: is at %s while lane %d is at %s", name_wait(self).text,
                          t->lane, name_wait(t).text);
    }
}

void emulator_warp_meet(uint32_t mask, const char *name, emulator_exchange *exchange, void *request)
{
    thread *me = self;
    if (!me) emulator_fail("%s", name);
    warp *w = &warps[me->warp];
    uint32_t bit = 1u << me->lane;
    if (!(mask & bit)) emulator_fail("%s: the mask %08x lacks the caller's lane", name, mask);
    if (mask & ~w->live)
        emulator_fail("%s: lanes %08x of the mask %08x %s", name, mask & ~w->live, mask,
                      mask & ~w->lanes ? "are not in the block" : "have exited");
    me->name = name;
    me->mask = mask;
    me->exchange = exchange;
    w->requests[me->lane] = request;
    w->meeting |= bit;
    if ((w->meeting & mask) != mask) {
        wait_here();
        return;
    }
    check_same_operation(mask);
    exchange(mask, w->requests);
    w->meeting &= ~mask;
    make_ready(me->warp, mask & ~bit);
}

/* Everybody is there. bar.sync counts warps, so each must have come as a whole. */
static void barrier_release(barrier *b, int id)
{
    for (int i = 0; i < warp_count; i++)
        if (b->lanes[i] && b->lanes[i] != warps[i].lanes)
            emulator_fail("barrier %d: only lanes %08x of warp %d have come", id, b->lanes[i], i);
    for (int i = 0; i < warp_count; i++) {
        warps[i].at_barrier &= ~b->lanes[i];
        make_ready(i, b->lanes[i]);
        b->lanes[i] = 0;
    }
    b->arrived = 0;
    b->result = b->votes;
    b->votes = 0;
    warp_turn = order == EMULATOR_RANDOM ? (int)(random_word() >> 32) : 0;
}

int emulator_barrier(int id, int expected, bool vote)
{
    thread *me = self;
    if (!me) emulator_fail("barrier");
    warp *w = &warps[me->warp];
    barrier *b = &barriers[id];
    uint32_t bit = 1u << me->lane;
    if (!expected) {
        expected = thread_count;
        if (live_count < thread_count)
            emulator_fail("__syncthreads: %d threads of the block have exited",
                          thread_count - live_count);
    }
    if (expected > thread_count)
        emulator_fail("barrier %d: expects %d threads of a block of %d", id, expected,
                      thread_count);
    if (b->arrived && b->expected != expected)
        emulator_fail("barrier %d: expects %d threads where others expect %d", id, expected,
                      b->expected);
    if (w->at_barrier & ~b->lanes[me->warp])
        emulator_fail("divergence: is at barrier %d while lanes %08x of its warp are at another",
                      id, w->at_barrier & ~b->lanes[me->warp]);
    me->name = nullptr;
    me->barrier = id;
    b->expected = expected;
    b->lanes[me->warp] |= bit;
    b->votes += vote;
    w->at_barrier |= bit;
    if (++b->arrived < expected) {
        wait_here();
        return b->result;
    }
    barrier_release(b, id);
    w->ready &= ~bit; /* the last one just goes on */
    if (!w->ready) ready_warps &= ~(1u << me->warp);
    return b->result;
}

/* --- Asynchronous copies ----------------------------------------------------------------- */

uint32_t emulator_check_shared(const char *what, const void *p, size_t bytes, size_t alignment)
{
    if (!self) emulator_fail("%s", what);
    ptrdiff_t offset = static_cast<const unsigned char *>(p) - emulator_shared;
    size_t size = kernel_running->shared;
    if (offset < 0 || (size_t)offset > size || bytes > size - (size_t)offset)
        emulator_fail("%s: %zu bytes at %td are not in the %zu bytes of shared memory", what, bytes,
                      offset, size);
    if ((size_t)offset % alignment)
        emulator_fail("%s: shared address %td is not a multiple of %zu", what, offset, alignment);
    return (uint32_t)offset;
}

static void do_copy(const async_copy *copy)
{
    memset(copy->to, 0, 16);
    memcpy(copy->to, copy->from, (size_t)copy->valid);
}

void emulator_copy_async(void *to, const void *from, int valid)
{
    emulator_check_shared("copy_async_16", to, 16, 16);
    if (valid < 0 || valid > 16) emulator_fail("copy_async_16: %d bytes valid of 16", valid);
    if ((uintptr_t)from % 16)
        emulator_fail("copy_async_16: global address %p is not a multiple of 16", from);
    if (!emulator_is_global(from, (size_t)(valid ? valid : 1)))
        emulator_fail("copy_async_16: %d bytes at %p are not in device memory", valid, from);
    async_copy copy = {to, from, valid, self->group};
    if (emulator_is_late())
        memset(to, 0xff, 16);
    else
        do_copy(&copy);
    self->copies.push_back(copy);
}

void emulator_copy_async_commit()
{
    self->group++;
}

void emulator_copy_async_wait(int pending)
{
    bool now = emulator_is_late();
    while (self->first_copy < self->copies.size()) {
        const async_copy *copy = &self->copies[self->first_copy];
        if (copy->group + (unsigned)pending >= self->group) return;
        if (now) do_copy(copy);
        self->first_copy++;
    }
    self->copies.clear();
    self->first_copy = 0;
}

/* --- A crash says where ------------------------------------------------------------------ */

static void on_crash(int signal_number)
{
    char text[512];
    int length = 0;
    if (self && kernel_running)
        length = snprintf(text, sizeof text,
                          "emulator: %s: block (%u,%u,%u), thread (%u,%u,%u): crashes: memory that "
                          "is not the device's, or its stack is too large\n",
                          kernel_running->operation.c_str(), emulator_block_index.x,
                          emulator_block_index.y, emulator_block_index.z, self->index.x,
                          self->index.y, self->index.z);
    else
        length = snprintf(text, sizeof text,
                          "emulator: the host crashes; does it touch device memory?\n");
    if (write(2, text, (size_t)length) < 0) length = 0;
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

static void watch_for_crashes()
{
    static bool done;
    struct sigaction old;
    if (done || EMULATOR_ASAN) return;
    done = true;
    if (sigaction(SIGSEGV, nullptr, &old) || old.sa_handler != SIG_DFL) return;
    static char stack[64 << 10];
    stack_t alternate = {};
    alternate.ss_sp = stack;
    alternate.ss_size = sizeof stack;
    sigaltstack(&alternate, nullptr);
    struct sigaction action = {};
    action.sa_handler = on_crash;
    action.sa_flags = SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, nullptr);
    sigaction(SIGBUS, &action, nullptr);
}

/* --- A launch ---------------------------------------------------------------------------- */

/* The block's shared memory: 1024-byte aligned and exactly as large as asked for. AddressSanitizer
 * sees what is read or written next to it; without it, bands of NaN on both sides are looked at
 * after each block. */
static unsigned char *shared_create(size_t bytes)
{
    void *p;
    if (posix_memalign(&p, 1024, EMULATOR_ASAN ? (bytes ? bytes : 1) : bytes + 2 * GUARD)) abort();
    unsigned char *memory = static_cast<unsigned char *>(p);
    if (EMULATOR_ASAN) return memory;
    memset(memory, 0xff, GUARD);
    memset(memory + GUARD + bytes, 0xff, GUARD);
    return memory + GUARD;
}

static void shared_destroy(unsigned char *shared)
{
    free(EMULATOR_ASAN ? shared : shared - GUARD);
}

static void shared_check(const unsigned char *shared, size_t bytes)
{
    static const std::string intact(GUARD, '\xff');
    if (EMULATOR_ASAN || failed) return;
    bool before = memcmp(shared - GUARD, intact.data(), GUARD) == 0;
    bool after = memcmp(shared + bytes, intact.data(), GUARD) == 0;
    if (before && after) return;
    failed = true;
    failure = where() + format_string(": writes %s its %zu bytes of shared memory",
                                      before ? "behind" : "in front of", bytes);
}

static void threads_create(const emulator_kernel &kernel)
{
    const dim3 &b = kernel.block;
    thread_count = (int)(b.x * b.y * b.z);
    warp_count = (thread_count + 31) / 32;
    for (int i = 0; i < thread_count; i++) {
        thread *t = &threads[i];
        unsigned n = (unsigned)i;
        t->index = {n % b.x, n / b.x % b.y, n / b.x / b.y};
        t->warp = i / 32;
        t->lane = i % 32;
    }
}

static void block_begin()
{
    ready_warps = 0;
    live_count = thread_count;
    warp_turn = order == EMULATOR_RANDOM ? (int)(random_word() >> 32) : 0;
    for (int i = 0; i < warp_count; i++) {
        warp *w = &warps[i];
        int lanes = thread_count - 32 * i;
        w->lanes = w->live = lanes >= 32 ? 0xffffffffu : (1u << lanes) - 1;
        w->ready = w->meeting = w->at_barrier = 0;
        make_ready(i, w->lanes);
    }
    for (barrier &b : barriers) {
        b.arrived = b.votes = 0;
        memset(b.lanes, 0, sizeof b.lanes[0] * (size_t)warp_count);
    }
}

/* After a failure: whatever was under way stays undone, and its stacks begin anew. */
static void block_abandon()
{
    for (int i = 0; i < worker_count; i++)
        if (!workers[i].idle) {
            worker_begin(&workers[i], i, worker_main);
            idle_workers.push_back(&workers[i]);
        }
    for (thread &t : threads) {
        t.on = nullptr;
        t.copies.clear();
        t.first_copy = 0;
    }
}

static void run_block()
{
    block_begin();
    run_thread(&host, take_ready());
    self = nullptr;
    if (failed) block_abandon();
}

static uint64_t greatest_common_divisor(uint64_t a, uint64_t b)
{
    return b ? greatest_common_divisor(b, a % b) : a;
}

bool emulator_run(const emulator_kernel &kernel)
{
    const dim3 &g = kernel.grid;
    uint64_t blocks = (uint64_t)g.x * g.y * g.z, start = 0, stride = 1;
    if (order == EMULATOR_REVERSE) {
        start = blocks - 1;
        stride = blocks - 1; /* -1 */
    } else if (order == EMULATOR_RANDOM) {
        start = random_word() % blocks;
        do
            stride = random_word() % blocks;
        while (greatest_common_divisor(stride, blocks) != 1);
    }
    watch_for_crashes();
    failed = false;
    kernel_running = &kernel;
    emulator_block_dim = kernel.block;
    emulator_grid_dim = g;
    emulator_shared = shared_create(kernel.shared);
    emulator_kernels_run++;
    threads_create(kernel);
    uint64_t i = start;
    for (uint64_t done = 0; done < blocks && !failed; done++) {
        emulator_block_index = {(unsigned)(i % g.x), (unsigned)(i / g.x % g.y),
                                (unsigned)(i / g.x / g.y)};
        i = (uint64_t)(((unsigned __int128)i + stride) % blocks);
        memset(emulator_shared, 0xff, kernel.shared);
        emulator_blocks_run++;
        run_block();
        shared_check(emulator_shared, kernel.shared);
    }
    shared_destroy(emulator_shared);
    emulator_shared = nullptr;
    kernel_running = nullptr;
    if (failed) emulator_report(failure);
    return !failed;
}
