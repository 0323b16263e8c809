/* Where a process stands, from the environment of every launcher, and what is refused there. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "train/launch.h"

static lt_launch_place place;

/* Nothing but these: "NAME=value", NULL at the end. */
static lt_status find(const char *const variables[], lt_err *err)
{
    clearenv();
    for (int i = 0; variables[i]; i++)
        assert_int_equal(putenv((char *)(uintptr_t)variables[i]), 0);
    *err = (lt_err){0};
    return lt_launch_find_place(&place, err);
}

static void expect(const char *const variables[], const lt_launch_place *wanted)
{
    lt_err err;
    if (find(variables, &err) != LT_OK) fail_msg("%s", err.message);
    assert_int_equal(place.launcher, wanted->launcher);
    assert_int_equal(place.rank, wanted->rank);
    assert_int_equal(place.world_size, wanted->world_size);
    assert_int_equal(place.local_rank, wanted->local_rank);
    assert_int_equal(place.local_size, wanted->local_size);
    assert_string_equal(place.master_address, wanted->master_address);
    assert_int_equal(place.master_port, wanted->master_port);
    assert_string_equal(place.master_port_name ? place.master_port_name : "MASTER_PORT",
                        wanted->master_port_name ? wanted->master_port_name : "MASTER_PORT");
    assert_int_equal(place.supervised, wanted->supervised);
    assert_int_equal(place.restart_count, wanted->restart_count);
    assert_true(place.host[0]);
}

static void refuse(const char *const variables[], const char *reason)
{
    lt_err err;
    assert_int_equal(find(variables, &err), LT_ERR_USAGE);
    if (!strstr(err.message, reason)) fail_msg("\"%s\" is not in: %s", reason, err.message);
}

#define THESE(...) ((const char *const[]){__VA_ARGS__, NULL})

static void alone(void **state)
{
    (void)state;
    static const char *const nothing[] = {NULL};
    const lt_launch_place by_itself = {.world_size = 1};
    expect(nothing, &by_itself);
    expect(THESE("RANK=", "WORLD_SIZE="), &by_itself);
    expect(THESE("WORLD_SIZE=1"), &by_itself);
    const lt_launch_place with_master = {
        .world_size = 1, .master_address = "node7", .master_port = 29500};
    expect(THESE("MASTER_ADDR=node7", "MASTER_PORT=29500"), &with_master);
}

static void torchrun(void **state)
{
    (void)state;
    const lt_launch_place all = {.launcher = LT_LAUNCHER_TORCHRUN,
                                 .rank = 5,
                                 .world_size = 8,
                                 .local_rank = 1,
                                 .local_size = 4,
                                 .master_address = "10.0.0.1",
                                 .master_port = 29400,
                                 .supervised = true,
                                 .restart_count = 2};
    expect(THESE("RANK=5", "WORLD_SIZE=8", "LOCAL_RANK=1", "LOCAL_WORLD_SIZE=4",
                 "MASTER_ADDR=10.0.0.1", "MASTER_PORT=29400", "LATHE_SUPERVISED=1",
                 "TORCHELASTIC_RESTART_COUNT=2"),
           &all);
    /* one process on each host: some operators leave the local variables out */
    const lt_launch_place bare = {.launcher = LT_LAUNCHER_TORCHRUN, .rank = 1, .world_size = 2};
    expect(THESE("RANK=1", "WORLD_SIZE=2"), &bare);
    /* a job script that sets them from those of another launcher means what it says */
    expect(THESE("RANK=1", "WORLD_SIZE=2", "OMPI_COMM_WORLD_RANK=0", "OMPI_COMM_WORLD_SIZE=4",
                 "SLURM_PROCID=3", "SLURM_STEP_NUM_TASKS=4"),
           &bare);
}

/* torchrun itself listens on MASTER_PORT, unless it says that it does not. */
static void a_port_beside_torchruns(void **state)
{
    (void)state;
    lt_launch_place wanted = {
        .launcher = LT_LAUNCHER_TORCHRUN, .rank = 1, .world_size = 2, .master_port = 29500};
    expect(THESE("RANK=1", "WORLD_SIZE=2", "MASTER_PORT=29500"), &wanted);
    expect(
        THESE("RANK=1", "WORLD_SIZE=2", "MASTER_PORT=29500", "TORCHELASTIC_USE_AGENT_STORE=False"),
        &wanted);
    wanted.master_port = 30500;
    wanted.master_port_name = "MASTER_PORT + 1000";
    expect(
        THESE("RANK=1", "WORLD_SIZE=2", "MASTER_PORT=29500", "TORCHELASTIC_USE_AGENT_STORE=True"),
        &wanted);
    wanted.master_port = 65535;
    expect(
        THESE("RANK=1", "WORLD_SIZE=2", "MASTER_PORT=64535", "TORCHELASTIC_USE_AGENT_STORE=True"),
        &wanted);
    wanted.master_port = 63536;
    wanted.master_port_name = "MASTER_PORT - 1000";
    expect(
        THESE("RANK=1", "WORLD_SIZE=2", "MASTER_PORT=64536", "TORCHELASTIC_USE_AGENT_STORE=True"),
        &wanted);
    const lt_launch_place none = {.launcher = LT_LAUNCHER_TORCHRUN, .rank = 1, .world_size = 2};
    expect(THESE("RANK=1", "WORLD_SIZE=2", "TORCHELASTIC_USE_AGENT_STORE=True"), &none);
    /* its variables in the shell from which another launcher is called */
    const lt_launch_place by_mpirun = {
        .launcher = LT_LAUNCHER_MPI, .rank = 1, .world_size = 2, .master_port = 29500};
    expect(THESE("OMPI_COMM_WORLD_RANK=1", "OMPI_COMM_WORLD_SIZE=2", "MASTER_PORT=29500",
                 "TORCHELASTIC_USE_AGENT_STORE=True"),
           &by_mpirun);
}

static void mpirun(void **state)
{
    (void)state;
    const lt_launch_place wanted = {
        .launcher = LT_LAUNCHER_MPI, .rank = 3, .world_size = 4, .local_rank = 1, .local_size = 2};
    expect(THESE("OMPI_COMM_WORLD_RANK=3", "OMPI_COMM_WORLD_SIZE=4", "OMPI_COMM_WORLD_LOCAL_RANK=1",
                 "OMPI_COMM_WORLD_LOCAL_SIZE=2"),
           &wanted);
    expect(THESE("PMI_RANK=3", "PMI_SIZE=4", "MPI_LOCALRANKID=1", "MPI_LOCALNRANKS=2"), &wanted);
    expect(THESE("PMI_RANK=3", "PMI_SIZE=4", "PMI_LOCAL_RANK=1", "PMI_LOCAL_SIZE=2"), &wanted);
    /* in a batch script of Slurm */
    expect(THESE("PMI_RANK=3", "PMI_SIZE=4", "MPI_LOCALRANKID=1", "MPI_LOCALNRANKS=2",
                 "SLURM_PROCID=0", "SLURM_NTASKS=4", "SLURM_STEP_NUM_TASKS=2"),
           &wanted);
}

static void srun(void **state)
{
    (void)state;
    const lt_launch_place wanted = {.launcher = LT_LAUNCHER_SLURM,
                                    .rank = 9,
                                    .world_size = 11,
                                    .local_rank = 1,
                                    .local_size = 3,
                                    .master_address = "node1",
                                    .master_port = 29500};
    expect(THESE("SLURM_PROCID=9", "SLURM_STEP_NUM_TASKS=11", "SLURM_LOCALID=1", "SLURM_NODEID=2",
                 "SLURM_STEP_TASKS_PER_NODE=4(x2),3", "MASTER_ADDR=node1", "MASTER_PORT=29500"),
           &wanted);
    /* Slurm's own PMI does not say where on the host a process is */
    expect(THESE("SLURM_PROCID=9", "SLURM_STEP_NUM_TASKS=11", "SLURM_LOCALID=1", "SLURM_NODEID=2",
                 "SLURM_STEP_TASKS_PER_NODE=4(x2),3", "MASTER_ADDR=node1", "MASTER_PORT=29500",
                 "PMI_RANK=9", "PMI_SIZE=11"),
           &wanted);
    /* the batch script of a job of many tasks is none of them */
    const lt_launch_place by_itself = {.world_size = 1};
    expect(THESE("SLURM_PROCID=0", "SLURM_NTASKS=16", "SLURM_NPROCS=16", "SLURM_LOCALID=0"),
           &by_itself);
    expect(THESE("SLURM_PROCID=0", "SLURM_NTASKS=16", "SLURM_STEP_NUM_TASKS=1"), &by_itself);
}

/* How many tasks each host has is only told in Slurm's short form. */
static void tasks_on_a_slurm_host(void **state)
{
    (void)state;
    static const struct {
        const char *tasks, *host;
        int size;
    } cases[] = {{"SLURM_STEP_TASKS_PER_NODE=8", "SLURM_NODEID=0", 8},
                 {"SLURM_STEP_TASKS_PER_NODE=4(x3)", "SLURM_NODEID=2", 4},
                 {"SLURM_STEP_TASKS_PER_NODE=4(x2),3,1(x2)", "SLURM_NODEID=1", 4},
                 {"SLURM_STEP_TASKS_PER_NODE=4(x2),3,1(x2)", "SLURM_NODEID=3", 1},
                 {"SLURM_STEP_TASKS_PER_NODE=4(x2)", "SLURM_NODEID=2", 0},
                 {"SLURM_STEP_TASKS_PER_NODE=4(x2", "SLURM_NODEID=0", 0},
                 {"SLURM_STEP_TASKS_PER_NODE=4;3", "SLURM_NODEID=1", 0},
                 {"SLURM_STEP_TASKS_PER_NODE=many", "SLURM_NODEID=0", 0},
                 {"SLURM_STEP_TASKS_PER_NODE=0", "SLURM_NODEID=0", 0},
                 {"SLURM_STEP_TASKS_PER_NODE=4(x0),2", "SLURM_NODEID=0", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const lt_launch_place wanted = {
            .launcher = LT_LAUNCHER_SLURM, .rank = 1, .world_size = 8, .local_size = cases[i].size};
        expect(THESE("SLURM_PROCID=1", "SLURM_STEP_NUM_TASKS=8", "SLURM_LOCALID=0", cases[i].tasks,
                     cases[i].host),
               &wanted);
    }
}

static void values_without_sense_are_refused(void **state)
{
    (void)state;
    refuse(THESE("RANK=2", "WORLD_SIZE=2"), "RANK=2, which is not a whole number from 0 to 1");
    refuse(THESE("RANK=-1", "WORLD_SIZE=2"), "RANK=-1");
    refuse(THESE("RANK=one", "WORLD_SIZE=2"), "RANK=one");
    refuse(THESE("RANK=0", "WORLD_SIZE=0"), "WORLD_SIZE=0");
    refuse(THESE("RANK=0", "WORLD_SIZE=2x"), "WORLD_SIZE=2x");
    refuse(THESE("RANK=0", "WORLD_SIZE=99999999999999999999"), "WORLD_SIZE=9999");
    refuse(THESE("RANK=0", "WORLD_SIZE= 2"), "WORLD_SIZE= 2");
    refuse(THESE("RANK=0"), "RANK and no WORLD_SIZE");
    refuse(THESE("WORLD_SIZE=4"), "WORLD_SIZE and no RANK");
    refuse(THESE("RANK=0", "WORLD_SIZE=4", "LOCAL_RANK=4"), "LOCAL_RANK=4");
    refuse(THESE("RANK=0", "WORLD_SIZE=4", "LOCAL_RANK=2", "LOCAL_WORLD_SIZE=2"), "LOCAL_RANK=2");
    refuse(THESE("RANK=0", "WORLD_SIZE=4", "LOCAL_WORLD_SIZE=5"), "LOCAL_WORLD_SIZE=5");
    refuse(THESE("OMPI_COMM_WORLD_RANK=4", "OMPI_COMM_WORLD_SIZE=4"), "OMPI_COMM_WORLD_RANK=4");
    refuse(THESE("SLURM_PROCID=1", "SLURM_STEP_NUM_TASKS=x"), "SLURM_STEP_NUM_TASKS=x");
    refuse(THESE("MASTER_PORT=0"), "MASTER_PORT=0");
    refuse(THESE("MASTER_PORT=65536"), "MASTER_PORT=65536");
    refuse(THESE("TORCHELASTIC_RESTART_COUNT=-1"), "TORCHELASTIC_RESTART_COUNT=-1");
    char long_name[300] = "MASTER_ADDR=";
    memset(long_name + 12, 'a', 256);
    refuse(THESE(long_name), "MASTER_ADDR of 256 characters");
}

static void gpus(void **state)
{
    (void)state;
    static const char *const bad[] = {"",   "0",    "65",    "-1",  "all",  "1.5",  "2 ",     "0,",
                                      ",1", "0,,1", "0,1,x", "0;1", "0,-1", "0, 1", "0,12345"};
    int indices[LT_LAUNCH_MAX_GPUS], count;
    lt_err err = {0};
    assert_int_equal(lt_launch_parse_gpus("3", indices, &count, &err), LT_OK);
    assert_int_equal(count, 3);
    for (int i = 0; i < 3; i++)
        assert_int_equal(indices[i], i);
    assert_int_equal(lt_launch_parse_gpus("0,2,13,2", indices, &count, &err), LT_OK);
    assert_int_equal(count, 4);
    assert_memory_equal(indices, ((const int[]){0, 2, 13, 2}), 4 * sizeof *indices);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(lt_launch_parse_gpus(bad[i], indices, &count, &err), LT_ERR_USAGE);
        assert_non_null(strstr(err.message, "--gpus"));
    }
    char many[2 * LT_LAUNCH_MAX_GPUS + 2] = "0"; /* one more than there may be */
    for (int i = 0; i < LT_LAUNCH_MAX_GPUS; i++)
        strcat(many, ",0");
    assert_int_equal(lt_launch_parse_gpus(many, indices, &count, &err), LT_ERR_USAGE);
    many[strlen(many) - 2] = '\0';
    assert_int_equal(lt_launch_parse_gpus(many, indices, &count, &err), LT_OK);
    assert_int_equal(count, LT_LAUNCH_MAX_GPUS);
}

static void launchers_have_names(void **state)
{
    (void)state;
    assert_string_equal(lt_launcher_name(LT_LAUNCHER_NONE), "alone");
    assert_string_equal(lt_launcher_name(LT_LAUNCHER_TORCHRUN), "torchrun variables");
    assert_string_equal(lt_launcher_name(LT_LAUNCHER_MPI), "mpirun");
    assert_string_equal(lt_launcher_name(LT_LAUNCHER_SLURM), "srun");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alone),
        cmocka_unit_test(torchrun),
        cmocka_unit_test(a_port_beside_torchruns),
        cmocka_unit_test(mpirun),
        cmocka_unit_test(srun),
        cmocka_unit_test(tasks_on_a_slurm_host),
        cmocka_unit_test(values_without_sense_are_refused),
        cmocka_unit_test(gpus),
        cmocka_unit_test(launchers_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
