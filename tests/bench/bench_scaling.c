/* What train/scaling.c says of a step on this machine's CPU, from measured parts:
 *
 *     bench_scaling MODEL PROCESSES SHARD MICRO_BATCHES PASSES UPDATE LATENCY ALL_REDUCE HALF
 *
 * MODEL a directory; PASSES seconds of forward and backward of a micro-batch of one process while
 * all others compute too, UPDATE seconds of an optimizer that steps everything; LATENCY, ALL_REDUCE
 * and HALF as the last line of bench_comm has them. Prints seconds of a step, and of them those
 * for exchanges. Nothing hides: the processors that compute are those that exchange. */
#include <math.h>

#include "tests/bench/bench.h"
#include "train/scaling.h"

#define MUST(call) bench_check((call), &err)

static lt_shard level_of(const char *name)
{
    static const char *const names[LT_SHARD_LEVELS] = {"none", "optimizer", "gradients",
                                                       "parameters"};
    for (int i = 0; i < LT_SHARD_LEVELS; i++)
        if (strcmp(name, names[i]) == 0) return (lt_shard)i;
    fprintf(stderr, "bench_scaling: there is no --shard %s\n", name);
    exit(2);
}

int main(int argc, char **argv)
{
    lt_err err = {0};
    lt_backend *backend = NULL;
    lt_model_config config = {0};
    lt_memory_plan plan;
    if (argc != 10) {
        fprintf(stderr, "usage: bench_scaling MODEL PROCESSES SHARD MICRO_BATCHES PASSES UPDATE "
                        "LATENCY ALL_REDUCE HALF\n");
        return 2;
    }
    lt_shard level = level_of(argv[3]);
    int processes = atoi(argv[2]);
    double passes = atof(argv[5]), update = atof(argv[6]);
    MUST(lt_backend_create(&(lt_backend_settings){.threads = 1}, &backend, &err));
    MUST(lt_model_config_load(argv[1], &config, &err));
    const lt_plan_settings what = {.workspace = {.rows = 1, .length = 16, .training = true},
                                   .sharding = {.level = level, .world_size = processes}};
    MUST(lt_model_plan(&config, backend, &what, &plan, &err));

    /* a second is an operation, and an element of the optimizer a byte */
    lt_cluster cluster = {.devices = processes,
                          .devices_per_host = processes,
                          .flops = 1,
                          .compute_efficiency = 1,
                          .memory_bandwidth = (double)plan.gradient_count / update,
                          .link_bandwidth = atof(argv[level == LT_SHARD_NONE ? 8 : 9]),
                          .host_bandwidth = 1,
                          .call_latency = atof(argv[7])};
    double ends = 4 * (double)plan.ends_elements, block = 4 * (double)plan.block_elements;
    double head = config.tie_word_embeddings ? 0 : ends / 2;
    lt_step_work work = {.shard = level,
                         .micro_batches = atoll(argv[4]),
                         .layers = config.num_hidden_layers,
                         .embeddings = {.weight_bytes = ends - head, .gradient_bytes = ends - head},
                         .block = {.weight_bytes = block, .gradient_bytes = block},
                         .head = {passes, 0, head, fmax(head, 4)},
                         .tied = config.tie_word_embeddings,
                         .optimizer_bytes = (double)plan.own_count};
    lt_step_time t = lt_predict_step(&cluster, &work);
    printf("%.6f %.6f\n", t.total, t.exposed);
    lt_model_config_free(&config);
    lt_backend_free(backend);
    return 0;
}
