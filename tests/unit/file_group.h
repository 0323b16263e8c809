/* Threads that stand for processes which write files together. Assertions belong to the main thread
 * alone: what runs on the others gives back a status. */
#ifndef LT_TEST_FILE_GROUP_H
#define LT_TEST_FILE_GROUP_H

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/fsio.h"

enum { MAX_PROCESSES = 4 };

/* What one of them does, and what came of it. */
typedef lt_status (*process_function)(void *context, const lt_file_group *group, lt_err *err);

typedef struct process_room {
    pthread_barrier_t barrier;
    int world_size;
    lt_status statuses[MAX_PROCESSES];
    lt_err errors[MAX_PROCESSES];
} process_room;

typedef struct process {
    process_room *room;
    lt_file_group group;
    process_function function;
    void *context;
    lt_status status;
    lt_err err;
} process;

static inline lt_status agree_in_room(void *context, lt_status mine, lt_err *err)
{
    process *p = context;
    process_room *room = p->room;
    lt_status result = LT_OK;
    room->statuses[p->group.rank] = mine;
    if (err) room->errors[p->group.rank] = *err;
    pthread_barrier_wait(&room->barrier);
    for (int r = room->world_size - 1; r >= 0; r--) {
        if (room->statuses[r] == LT_OK) continue;
        result = room->statuses[r];
        if (err) *err = room->errors[r];
    }
    pthread_barrier_wait(&room->barrier);
    return result;
}

static inline void *run_process(void *argument)
{
    process *p = argument;
    p->status = p->function(p->context, &p->group, &p->err);
    return NULL;
}

/* `contexts`: [world_size]. Their results in `statuses`, and the message of rank 0 in *err. */
static inline void run_processes(int world_size, process_function function, void *const *contexts,
                                 lt_status *statuses, lt_err *err)
{
    process_room room = {.world_size = world_size};
    process processes[MAX_PROCESSES] = {0};
    pthread_t threads[MAX_PROCESSES];
    pthread_barrier_init(&room.barrier, NULL, (unsigned)world_size);
    for (int r = 0; r < world_size; r++) {
        process *p = &processes[r];
        *p = (process){.room = &room, .function = function, .context = contexts[r]};
        p->group = (lt_file_group){
            .rank = r, .world_size = world_size, .context = p, .agree = agree_in_room};
        if (pthread_create(&threads[r], NULL, run_process, p) != 0) fail_msg("no thread");
    }
    for (int r = 0; r < world_size; r++) {
        pthread_join(threads[r], NULL);
        statuses[r] = processes[r].status;
    }
    pthread_barrier_destroy(&room.barrier);
    *err = processes[0].err;
}

#endif
