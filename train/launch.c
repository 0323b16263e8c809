/* The environment of mpirun, srun, torchrun and Lathe's own launcher. */
#include "train/launch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_PROCESSES = 1 << 20, MAX_PORT = 65535 };

/* The variables of one launcher; NULL: it has none for this. */
typedef struct variables {
    lt_launcher launcher;
    const char *rank, *size;
    const char *sign; /* has to be there too; NULL: nothing has */
    const char *local_rank, *local_size;
} variables;

/* The first whose `rank`, `size` and `sign` are all set counts. Slurm's PMI has the variables of
 * MPICH's without those about the host, so that it comes between the two. */
static const variables launchers[] = {
    {LT_LAUNCHER_TORCHRUN, "RANK", "WORLD_SIZE", NULL, "LOCAL_RANK", "LOCAL_WORLD_SIZE"},
    {LT_LAUNCHER_MPI, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", NULL,
     "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"},
    {LT_LAUNCHER_MPI, "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALRANKID",
     "MPI_LOCALNRANKS"},
    {LT_LAUNCHER_SLURM, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", NULL, "SLURM_LOCALID", NULL},
    {LT_LAUNCHER_MPI, "PMI_RANK", "PMI_SIZE", NULL, "PMI_LOCAL_RANK", "PMI_LOCAL_SIZE"},
};
enum { LAUNCHER_COUNT = sizeof launchers / sizeof *launchers };

static const char *value_of(const char *variable)
{
    const char *value = variable ? getenv(variable) : NULL;
    return value && *value ? value : NULL;
}

/* Leaves *out alone when the variable is not set. */
static lt_status read_number(const char *variable, int min, int max, int *out, lt_err *err)
{
    const char *text = value_of(variable);
    if (!text) return LT_OK;
    char *end;
    errno = 0;
    long number = strtol(text, &end, 10);
    bool digits_only = strspn(text, "0123456789") == strlen(text);
    if (!digits_only || errno || number < min || number > max)
        return lt_fail(err, LT_ERR_USAGE,
                       "the environment has %s=%.40s, which is not a whole number from %d to %d",
                       variable, text, min, max);
    *out = (int)number;
    return LT_OK;
}

static bool is_set(const variables *v)
{
    return value_of(v->rank) && value_of(v->size) && (!v->sign || value_of(v->sign));
}

/* A batch script has Slurm's variables too, for the job; only a step has several tasks. */
static bool is_alone_in_slurm(const variables *v, int world_size)
{
    return v->launcher == LT_LAUNCHER_SLURM && world_size == 1;
}

/* Slurm writes "4(x2),3": two hosts with 4 tasks, then one with 3. 0 when it can not be read. */
static int slurm_tasks_on_host(const char *text, const char *host)
{
    if (!text || !host) return 0;
    long left = strtol(host, NULL, 10);
    while (*text) {
        char *end;
        long tasks = strtol(text, &end, 10), hosts = 1;
        if (strncmp(end, "(x", 2) == 0) {
            hosts = strtol(end + 2, &end, 10);
            if (*end++ != ')') return 0;
        }
        if (tasks < 1 || tasks > MAX_PROCESSES || hosts < 1) return 0;
        if (left < hosts) return (int)tasks;
        left -= hosts;
        if (*end != ',') return 0;
        text = end + 1;
    }
    return 0;
}

static lt_status read_place(const variables *v, lt_launch_place *out, lt_err *err)
{
    int world_size = 1;
    LT_TRY(read_number(v->size, 1, MAX_PROCESSES, &world_size, err));
    if (is_alone_in_slurm(v, world_size)) return LT_OK;
    out->launcher = v->launcher;
    out->world_size = world_size;
    LT_TRY(read_number(v->rank, 0, world_size - 1, &out->rank, err));
    if (v->launcher == LT_LAUNCHER_SLURM)
        out->local_size =
            slurm_tasks_on_host(value_of("SLURM_STEP_TASKS_PER_NODE"), value_of("SLURM_NODEID"));
    LT_TRY(read_number(v->local_size, 1, world_size, &out->local_size, err));
    int local_max = (out->local_size ? out->local_size : world_size) - 1;
    return read_number(v->local_rank, 0, local_max, &out->local_rank, err);
}

/* Half of a pair would make every process train by itself, into the same directory. */
static lt_status refuse_half_a_pair(lt_err *err)
{
    int world_size = 1;
    const char *rank = value_of("RANK");
    if (!rank) LT_TRY(read_number("WORLD_SIZE", 1, MAX_PROCESSES, &world_size, err));
    if (!rank && world_size == 1) return LT_OK;
    return lt_fail(err, LT_ERR_USAGE,
                   "the environment has %s and no %s; processes that train together need both, "
                   "and one that trains alone neither",
                   rank ? "RANK" : "WORLD_SIZE", rank ? "WORLD_SIZE" : "RANK");
}

/* torchrun's agent listens on MASTER_PORT for PyTorch's own processes. The ports next to it are
 * those of other jobs on this host; and an even distance, since Linux chooses odd ports for those
 * that listen, as torchrun's is by default, and even ones for those that connect. */
static void step_aside(lt_launch_place *out)
{
    enum { DISTANCE = 1000 };
    const char *agent = value_of("TORCHELASTIC_USE_AGENT_STORE");
    bool is_taken = agent && strcmp(agent, "True") == 0;
    if (out->launcher != LT_LAUNCHER_TORCHRUN || !is_taken || out->master_port == 0) return;
    bool up = out->master_port <= MAX_PORT - DISTANCE;
    out->master_port += up ? DISTANCE : -DISTANCE;
    out->master_port_name = up ? "MASTER_PORT + 1000" : "MASTER_PORT - 1000";
}

static lt_status read_master(lt_launch_place *out, lt_err *err)
{
    const char *address = value_of("MASTER_ADDR");
    if (address && strlen(address) >= sizeof out->master_address)
        return lt_fail(err, LT_ERR_USAGE,
                       "the environment has a MASTER_ADDR of %zu characters; a host's name has at "
                       "most %zu",
                       strlen(address), sizeof out->master_address - 1);
    if (address) strcpy(out->master_address, address);
    LT_TRY(read_number("MASTER_PORT", 1, MAX_PORT, &out->master_port, err));
    step_aside(out);
    return LT_OK;
}

lt_status lt_launch_find_place(lt_launch_place *out, lt_err *err)
{
    *out = (lt_launch_place){.world_size = 1};
    /* one that is too long is cut short; the last byte stays 0 */
    if (gethostname(out->host, sizeof out->host - 1) != 0 && !out->host[0])
        strcpy(out->host, "localhost");
    const variables *found = NULL;
    for (int i = 0; i < LAUNCHER_COUNT && !found; i++)
        if (is_set(&launchers[i])) found = &launchers[i];
    LT_TRY(found ? read_place(found, out, err) : refuse_half_a_pair(err));
    LT_TRY(read_master(out, err));
    out->supervised = value_of("LATHE_SUPERVISED") != NULL;
    return read_number("TORCHELASTIC_RESTART_COUNT", 0, 1 << 20, &out->restart_count, err);
}

/* --- Which GPUs --------------------------------------------------------------------------------
 */

/* Digits up to a comma or the end; -1 for anything else. */
static int read_index(const char **at)
{
    enum { MAX_DIGITS = 4 };
    int digits = (int)strspn(*at, "0123456789");
    char after = (*at)[digits];
    if (digits == 0 || digits > MAX_DIGITS || (after && after != ',')) return -1;
    int index = atoi(*at);
    *at += digits;
    return index;
}

static lt_status refuse_gpus(const char *text, lt_err *err)
{
    return lt_fail(err, LT_ERR_USAGE,
                   "--gpus %.60s: give how many GPUs to use (4), or which (0,2,3), at most %d",
                   text, LT_LAUNCH_MAX_GPUS);
}

lt_status lt_launch_parse_gpus(const char *text, int indices[LT_LAUNCH_MAX_GPUS], int *count,
                               lt_err *err)
{
    const char *at = text;
    bool is_list = strchr(text, ',') != NULL;
    *count = 0;
    if (!is_list) {
        int wanted = read_index(&at);
        if (wanted < 1 || wanted > LT_LAUNCH_MAX_GPUS) return refuse_gpus(text, err);
        for (; *count < wanted; ++*count)
            indices[*count] = *count;
        return LT_OK;
    }
    for (;; at++) {
        int index = read_index(&at);
        if (index < 0 || *count == LT_LAUNCH_MAX_GPUS) return refuse_gpus(text, err);
        indices[(*count)++] = index;
        if (!*at) return LT_OK;
    }
}

const char *lt_launcher_name(lt_launcher launcher)
{
    static const char *const names[] = {[LT_LAUNCHER_NONE] = "alone",
                                        [LT_LAUNCHER_TORCHRUN] = "torchrun variables",
                                        [LT_LAUNCHER_MPI] = "mpirun",
                                        [LT_LAUNCHER_SLURM] = "srun"};
    return names[launcher];
}
