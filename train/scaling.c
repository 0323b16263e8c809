/* The clusters that have names, and the time of a step on them. */
#include "train/scaling.h"

#include <math.h>
#include <string.h>

/* H100 SXM5 80 GB: 989e12 dense bf16 operations per second (NVIDIA's data sheet). Where the other
 * figures are from:
 *   0.49 of the peak: what llm.c publishes for GPT-2 1558M on H100 (docs/benchmarks/gpu.md);
 *   3.0e12 bytes per second: nine tenths of the data sheet's 3.35e12, which published kernels that
 *     are bound by memory reach;
 *   370.8e9: 18 NVLinks at the 20.6e9 that NCCL counts with for this generation, of the data
 *     sheet's 450e9 (NVIDIA/nccl, src/graph/topo.h);
 *   47e9: of 400 Gb/s, 50e9, NVIDIA expects 46e9 to 48e9 (NVIDIA/nccl-tests issue 290);
 *   8.4, 3.4 and 14 microseconds: NCCL's own model of its rings with the protocol for large
 *     messages (NVIDIA/nccl, src/graph/tuning.cc).
 * A GPU reports some 85e9 bytes; context and NCCL's own buffers take the rest. */
#define H100                                                                                      \
    .devices_per_host = 8, .flops = 989e12, .compute_efficiency = 0.49, .memory_bandwidth = 3e12, \
    .link_bandwidth = 370.8e9, .host_bandwidth = 47e9, .call_latency = 8.4e-6,                    \
    .link_latency = 3.4e-6, .host_latency = 14e-6, .overlaps = true, .memory = 80000000000

const lt_cluster lt_clusters[] = {
    {.name = "8xH100", .text = "8 H100 SXM 80 GB with NVLink, one host", .devices = 8, H100},
    {.name = "64xH100",
     .text = "8 such hosts, 400 Gb/s InfiniBand for each GPU",
     .devices = 64,
     H100},
    {.name = "512xH100",
     .text = "64 such hosts, 400 Gb/s InfiniBand for each GPU",
     .devices = 512,
     H100},
    {.name = NULL},
};

const lt_cluster *lt_cluster_by_name(const char *name)
{
    for (const lt_cluster *c = lt_clusters; c->name; c++)
        if (strcmp(c->name, name) == 0) return c;
    return NULL;
}

/* --- Collectives -------------------------------------------------------------------------------
 */

static int host_count(const lt_cluster *c)
{
    return (c->devices + c->devices_per_host - 1) / c->devices_per_host;
}

static double ring_bandwidth(const lt_cluster *c)
{
    double network = c->devices_per_host * c->host_bandwidth;
    return host_count(c) > 1 ? fmin(c->link_bandwidth, network) : c->link_bandwidth;
}

static double ring_latency(const lt_cluster *c)
{
    int between = host_count(c) - 1, within = c->devices - 1 - between;
    return within * c->link_latency + between * c->host_latency;
}

/* Up a chain in each host and a binary tree over the hosts. */
static double tree_latency(const lt_cluster *c)
{
    int in_host = c->devices < c->devices_per_host ? c->devices : c->devices_per_host;
    return (in_host - 1) * c->link_latency + ceil(log2(host_count(c))) * c->host_latency;
}

/* Reduce-scatter and all-gather. */
static double half_exchange(const lt_cluster *c, double bytes)
{
    double others = (double)(c->devices - 1) / c->devices;
    return c->call_latency + others * bytes / ring_bandwidth(c) + ring_latency(c);
}

static double all_reduce(const lt_cluster *c, double bytes)
{
    double others = (double)(c->devices - 1) / c->devices;
    return c->call_latency + 2 * others * bytes / ring_bandwidth(c) +
           2 * fmin(ring_latency(c), tree_latency(c));
}

/* --- Two streams -------------------------------------------------------------------------------
 */

/* Units are -1 for the embeddings, blocks from 0 on, and `layers` for the head. */
enum { EMBEDDINGS = -1, NO_UNIT = -2 };
/* Where units are whole by turns (model/sharding.h): two for blocks, the ends' own. */
enum { BLOCK_ROOMS = 2, ROOMS = BLOCK_ROOMS + 2 };

typedef struct timeline {
    const lt_cluster *cluster;
    const lt_step_work *work;
    double now;        /* of the passes */
    double links_free; /* when the last collective is done */
    double begun;      /* this step */
    double compute, communication, exposed;
    int64_t held[ROOMS];  /* whose weights are in the room, or on their way there */
    double arrive[ROOMS]; /* when these are there */
    double left[ROOMS];   /* when the last gradients that were there have gone */
    double added;         /* when those that are to be added to earlier ones have come */
} timeline;

static void pass(timeline *t, double operations)
{
    double seconds = operations / (t->cluster->flops * t->cluster->compute_efficiency);
    t->now += seconds;
    t->compute += seconds;
}

static void wait_until(timeline *t, double done)
{
    if (done <= t->now) return;
    t->exposed += done - t->now;
    t->now = done;
}

/* A collective that is asked for at `asked`, behind those before it; returns when it is done. */
static double exchange(timeline *t, double asked, double seconds)
{
    if (t->cluster->devices == 1) return asked;
    t->communication += seconds;
    if (!t->cluster->overlaps) {
        wait_until(t, t->now + seconds);
        return t->now;
    }
    t->links_free = fmax(t->links_free, asked) + seconds;
    return t->links_free;
}

/* --- Units -------------------------------------------------------------------------------------
 */

static bool is_adapter(const lt_step_work *w)
{
    return w->adapter_bytes > 0;
}

static const lt_unit_work *unit_at(const lt_step_work *w, int64_t unit)
{
    if (unit < 0) return &w->embeddings;
    return unit < w->layers ? &w->block : &w->head;
}

static bool is_trained(const lt_step_work *w, int64_t unit)
{
    int64_t lowest = w->first_trained > 0 ? w->first_trained : EMBEDDINGS;
    return !is_adapter(w) && unit >= lowest && unit_at(w, unit)->gradient_bytes > 0;
}

static int room_of(const lt_step_work *w, int64_t unit)
{
    if (unit >= 0 && unit < w->layers) return (int)(unit % BLOCK_ROOMS);
    return BLOCK_ROOMS + (unit >= 0 && w->tied);
}

/* --- Weights -----------------------------------------------------------------------------------
 */

/* Parts of weights: into the unit's room, unless they are there. */
static void fetch(timeline *t, int64_t unit)
{
    const lt_step_work *w = t->work;
    int room = room_of(w, unit);
    if (w->shard != LT_SHARD_PARAMETERS || t->held[room] == unit) return;
    t->held[room] = unit;
    t->arrive[room] =
        exchange(t, t->now, half_exchange(t->cluster, unit_at(w, unit)->weight_bytes));
}

/* Waits for the unit's weights, and sends for the next one's. */
static void need(timeline *t, int64_t unit, int64_t next)
{
    int room = room_of(t->work, unit);
    fetch(t, unit);
    wait_until(t, t->arrive[room]);
    if (next != NO_UNIT && room_of(t->work, next) != room) fetch(t, next);
}

/* Stepped weights of whole models: all were sent for when the step began, in the order of need. */
static void need_stepped(timeline *t, int64_t unit)
{
    const lt_step_work *w = t->work;
    bool divided = w->shard == LT_SHARD_OPTIMIZER || w->shard == LT_SHARD_GRADIENTS;
    if (!divided || !is_trained(w, unit)) return;
    wait_until(t, exchange(t, t->begun, half_exchange(t->cluster, unit_at(w, unit)->weight_bytes)));
}

/* --- Gradients ---------------------------------------------------------------------------------
 */

/* Before they are written: what was in the room has left. A tied head writes the embeddings' too.
 */
static void make_room(timeline *t, int64_t unit)
{
    const lt_step_work *w = t->work;
    if (w->shard < LT_SHARD_GRADIENTS) return;
    wait_until(t, t->left[room_of(w, unit)]);
    if (unit == w->layers && w->tied) wait_until(t, t->left[room_of(w, EMBEDDINGS)]);
}

/* Whole gradients leave after the last micro-batch, parts after each; those of a later one by way
 * of a single room, from where they are added to the earlier ones. */
static void reduce(timeline *t, int64_t unit, bool first, bool last)
{
    const lt_step_work *w = t->work;
    const lt_cluster *c = t->cluster;
    double bytes = unit_at(w, unit)->gradient_bytes;
    bool in_parts = w->shard >= LT_SHARD_GRADIENTS;
    if (!is_trained(w, unit) || (!last && !in_parts)) return;
    if (in_parts && !first) wait_until(t, t->added);
    double done = exchange(
        t, t->now, w->shard == LT_SHARD_NONE ? all_reduce(c, bytes) : half_exchange(c, bytes));
    t->left[room_of(w, unit)] = done;
    if (in_parts) t->added = done;
}

/* --- A step ------------------------------------------------------------------------------------
 */

static void go_forward(timeline *t, bool first)
{
    const lt_step_work *w = t->work;
    for (int64_t unit = EMBEDDINGS; unit <= w->layers; unit++) {
        if (first) need_stepped(t, unit);
        need(t, unit, unit < w->layers ? unit + 1 : NO_UNIT);
        if (unit < w->layers) pass(t, unit_at(w, unit)->forward);
    }
}

/* The head's passes are one. Backward of embeddings reads no weights. */
static void go_backward(timeline *t, bool first, bool last)
{
    const lt_step_work *w = t->work;
    for (int64_t unit = w->layers; unit >= w->first_trained; unit--) {
        bool lowest = unit == w->first_trained;
        int64_t next = !lowest ? unit - 1 : last ? NO_UNIT : EMBEDDINGS;
        make_room(t, unit);
        need(t, unit, next);
        pass(t, unit_at(w, unit)->backward + (unit == w->layers ? w->head.forward : 0));
        reduce(t, unit, first, last);
    }
    if (w->first_trained > 0) return;
    make_room(t, EMBEDDINGS);
    pass(t, w->embeddings.backward);
    reduce(t, EMBEDDINGS, first, last);
}

/* From the optimizer's end to its next beginning. */
static void go_a_step(timeline *t)
{
    const double totals = 4 * sizeof(double); /* loss, tokens, correct ones, squares */
    const lt_step_work *w = t->work;
    t->begun = t->now;
    t->compute = t->communication = t->exposed = 0;
    for (int room = 0; room < ROOMS; room++)
        if (is_trained(w, t->held[room])) t->held[room] = NO_UNIT;
    for (int64_t i = 0; i < w->micro_batches; i++) {
        go_forward(t, i == 0);
        go_backward(t, i == 0, i == w->micro_batches - 1);
    }
    wait_until(t, t->links_free);
    if (is_adapter(w)) wait_until(t, exchange(t, t->now, all_reduce(t->cluster, w->adapter_bytes)));
    wait_until(t, exchange(t, t->now, all_reduce(t->cluster, totals)));
}

/* A step like those before it: the first one still has all to fetch. */
static lt_step_time predict(const lt_cluster *cluster, const lt_step_work *work)
{
    timeline t = {.cluster = cluster, .work = work};
    for (int room = 0; room < ROOMS; room++)
        t.held[room] = NO_UNIT;
    for (int i = 0; i < 2; i++)
        go_a_step(&t);
    lt_step_time time = {.compute = t.compute,
                         .communication = t.communication,
                         .exposed = t.exposed,
                         .optimizer = work->optimizer_bytes / cluster->memory_bandwidth};
    time.total = time.compute + time.exposed + time.optimizer;
    time.efficiency = 1 - time.exposed / time.total;
    return time;
}

/* The same cluster with one thing twice as good. */
static lt_cluster improve(const lt_cluster *cluster, int what)
{
    lt_cluster better = *cluster;
    switch (what) {
    case 0:
        better.flops *= 2;
        break;
    case 1:
        better.memory_bandwidth *= 2;
        break;
    case 2:
        better.link_bandwidth *= 2;
        break;
    case 3:
        better.host_bandwidth *= 2;
        break;
    default:
        better.call_latency /= 2;
        better.link_latency /= 2;
        better.host_latency /= 2;
    }
    return better;
}

lt_step_time lt_predict_step(const lt_cluster *cluster, const lt_step_work *work)
{
    static const char *const names[] = {"compute", "memory", "link", "network", "latency"};
    lt_step_time time = predict(cluster, work);
    double shortest = time.total;
    time.limit = names[0];
    for (int i = 0; i < (int)(sizeof names / sizeof *names); i++) {
        lt_cluster better = improve(cluster, i);
        double total = predict(&better, work).total;
        if (total >= shortest) continue;
        shortest = total;
        time.limit = names[i];
    }
    return time;
}
