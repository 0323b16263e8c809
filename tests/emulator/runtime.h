/* Between the two halves of the host's side: runtime.cpp (errors, streams, events, graphs, the
 * device) and memory.cpp (allocations and copies). */
#ifndef LT_EMULATOR_RUNTIME_H
#define LT_EMULATOR_RUNTIME_H

#include <cuda_runtime.h>

extern emulator_counts emulator_count;

/* API functions return through this: an error is remembered for cudaGetLastError, and the failure
 * of an earlier kernel takes precedence. Closes device memory to the host. */
cudaError_t emulator_result(cudaError_t error);
/* From now on everything fails with `error`. */
void emulator_break(cudaError_t error);

/* Puts work at the end of a stream; it returns false when it failed. */
cudaError_t emulator_enqueue(cudaStream_t stream, std::function<bool()> work);
void emulator_run_stream(cudaStream_t stream);
void emulator_run_everything();

bool emulator_captures(cudaStream_t stream);
/* The caller may not be called while any stream captures: spoils the captures, returns an error. */
bool emulator_captures_anywhere();
cudaError_t emulator_refuse_in_capture();

/* Device memory can be touched in between; they nest. Then it is the host's turn again, and
 * emulator_protect closes it: not after each piece of eager work, for that takes long. */
void emulator_device_work_begin();
void emulator_device_work_end();
void emulator_protect();
uint64_t emulator_total_memory();

#endif
