/* Between device code (intrinsics.h, ptx.h), the machine that runs it (emulator.cpp) and the host's
 * side (runtime.cpp). Nothing here is for kernels or tests to use directly. */
#ifndef LT_EMULATOR_MACHINE_H
#define LT_EMULATOR_MACHINE_H

#include <functional>
#include <string>

#include <stddef.h>
#include <stdint.h>

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};

/* --- The thread that runs now ------------------------------------------------------------ */

extern const uint3 *emulator_thread_index;
extern uint3 emulator_block_index;
extern dim3 emulator_block_dim, emulator_grid_dim;
extern unsigned char *emulator_shared; /* the block's dynamic shared memory */

/* What the thread did is not allowed: ends the launch. */
[[noreturn]] void emulator_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* --- Meeting other threads --------------------------------------------------------------- */

/* The threads of a warp in `mask` meet; the last one to come calls `exchange` with the requests of
 * all, which reads operands and writes results in place: those who wait keep their stack. */
typedef void emulator_exchange(uint32_t mask, void *const requests[32]);
void emulator_warp_meet(uint32_t mask, const char *name, emulator_exchange *exchange,
                        void *request);

/* Waits at barrier `id` until `threads` threads are there (0: the whole block). Returns how many of
 * them came with a true `vote`. */
int emulator_barrier(int id, int threads, bool vote);

/* --- Memory ------------------------------------------------------------------------------ */

/* Is [p, p + bytes) in the block's shared memory, and aligned? Fails when not. Returns its offset.
 */
uint32_t emulator_check_shared(const char *what, const void *p, size_t bytes, size_t alignment);
/* Is [p, p + bytes) in one piece of device memory, or of pinned memory? (runtime.cpp) */
bool emulator_is_global(const void *p, size_t bytes);

void emulator_copy_async(void *to, const void *from, int valid);
void emulator_copy_async_commit();
void emulator_copy_async_wait(int pending);

/* --- Tensor cores ------------------------------------------------------------------------ */

void emulator_load_matrix(uint32_t *r, const void *row, int matrices, bool transposed);
void emulator_mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2]);

/* --- The host's side --------------------------------------------------------------------- */

struct emulator_kernel {
    std::string operation;
    dim3 grid, block;
    size_t shared;
    std::function<void()> body; /* one thread */
};

/* Runs all blocks. False when it failed; the handler was told. */
bool emulator_run(const emulator_kernel &kernel);
bool emulator_is_late();
/* The number in an environment variable, or `otherwise`. */
uint64_t emulator_setting(const char *name, uint64_t otherwise);
/* Reports what went wrong outside of threads. Returns if there is a handler. */
void emulator_report(const std::string &message);

extern uint64_t emulator_kernels_run, emulator_blocks_run;

#endif
