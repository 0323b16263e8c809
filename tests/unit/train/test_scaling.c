/* The model of a step's time: steps worked out by hand on a small cluster, and what must hold for
 * any. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "train/scaling.h"

/* 4 devices of 1 operation a second, 1 byte a second between them, no latency. A unit of 4 bytes
 * takes (4 - 1) / 4 * 4 = 3 seconds to be gathered or reduce-scattered, 6 to be all-reduced. */
static const lt_cluster four = {.devices = 4,
                                .devices_per_host = 4,
                                .flops = 1,
                                .compute_efficiency = 1,
                                .memory_bandwidth = 1,
                                .link_bandwidth = 1,
                                .host_bandwidth = 1,
                                .overlaps = true};

/* Three blocks; forward takes 1 second each, backward 2, the head 1 and 2. The sum of the step's
 * totals, 32 bytes, is 2 * 3 / 4 * 32 = 48 seconds more. */
static const lt_step_work three = {.micro_batches = 1,
                                   .layers = 3,
                                   .block = {1, 2, 4, 4},
                                   .head = {1, 2, 4, 4},
                                   .embeddings = {0, 0, 4, 4}};
enum { TOTALS = 48 };

static void expect(double actual, double expected, const char *what)
{
    if (fabs(actual - expected) > 1e-9 * fmax(1, fabs(expected)))
        fail_msg("%s: %.12g, expected %.12g", what, actual, expected);
}

static lt_step_time step_of(lt_shard shard, int64_t micro_batches, double bytes)
{
    lt_step_work work = three;
    work.shard = shard;
    work.micro_batches = micro_batches;
    lt_unit_work *const units[] = {&work.embeddings, &work.block, &work.head};
    for (int i = 0; i < 3; i++)
        units[i]->weight_bytes = units[i]->gradient_bytes = bytes;
    return lt_predict_step(&four, &work);
}

/* Backward of the head ends at 3 + 1 + 2 = 6. Five all-reduces of 6 seconds follow each other from
 * then on, none ever waits for a pass: blocks end at 8, 10, 12. 6 + 30 = 36. */
static void none_reduces_from_the_head_on(void **state)
{
    (void)state;
    lt_step_time t = step_of(LT_SHARD_NONE, 1, 4);
    expect(t.compute, 12, "compute");
    expect(t.communication, 30 + TOTALS, "communication");
    expect(t.total, 36 + TOTALS, "total");
    expect(t.exposed, 24 + TOTALS, "exposed");
}

/* With 1 byte an all-reduce takes 1.5: those of the head and the blocks hide behind the next
 * block's 2 seconds; block 0's and the embeddings', begun at 12, are seen. */
static void what_is_shorter_than_a_block_hides(void **state)
{
    (void)state;
    lt_step_time t = step_of(LT_SHARD_NONE, 1, 1);
    expect(t.total, 12 + 3 + TOTALS, "total");
    expect(t.communication, 5 * 1.5 + TOTALS, "communication");
}

/* Weights first, five of 3 seconds: embeddings at 3, blocks at 6, 9, 12, head at 15; each block's
 * second of forward hides. The head's passes end at 18; reduce-scatters of 3 seconds follow each
 * other to 18 + 15. Accumulation adds 12 seconds of passes before, and nothing else. */
static void optimizer_gathers_once_and_reduces_once(void **state)
{
    (void)state;
    expect(step_of(LT_SHARD_OPTIMIZER, 1, 4).total, 33 + TOTALS, "one micro-batch");
    /* the first ends backward at 18 + 6, the second's head at 24 + 6 */
    expect(step_of(LT_SHARD_OPTIMIZER, 2, 4).total, 30 + 15 + TOTALS, "two micro-batches");
    expect(step_of(LT_SHARD_OPTIMIZER, 2, 4).communication, 30 + TOTALS, "communication");
}

/* As above up to 18, where the head's gradients begin to leave, until 21; then block 2's until 24,
 * block 1's until 27. Block 0 has the room of block 2: it passes from 24 to 26, and its gradients
 * leave until 30, the embeddings' until 33. Those have the head's room, where the second
 * micro-batch waits for them: its head passes from 33 to 36. From then on each unit's gradients
 * wait for those before to be added: five times 3 seconds, until 51.
 *
 * With 4 seconds of forward a block the weights are no hindrance: embeddings at 3, blocks pass from
 * 6 to 18, the head until 21. Its gradients leave until 24, block 2 (ends at 23) until 27, block 1
 * (25) until 30. Block 0 has the room of block 2: it passes from 27 to 29. The second micro-batch's
 * head ends at 29 + 12 + 3 = 44, with all links idle since 36, and five times 3 seconds follow. A
 * third micro-batch begins when the last of them do, at 56: 12 + 3 + 15 seconds. */
static void gradients_leave_by_two_rooms(void **state)
{
    (void)state;
    expect(step_of(LT_SHARD_GRADIENTS, 1, 4).total, 33 + TOTALS, "one micro-batch");
    expect(step_of(LT_SHARD_GRADIENTS, 2, 4).total, 51 + TOTALS, "two micro-batches");
    expect(step_of(LT_SHARD_GRADIENTS, 2, 4).communication, 15 + 30 + TOTALS, "communication");
    lt_step_work slow = three;
    slow.shard = LT_SHARD_GRADIENTS;
    slow.micro_batches = 2;
    slow.block.forward = 4;
    expect(lt_predict_step(&four, &slow).total, 44 + 15 + TOTALS, "slow forward");
    slow.micro_batches = 3;
    expect(lt_predict_step(&four, &slow).total, 56 + 30 + TOTALS, "and another micro-batch");
}

/* Forward waits for all of 15 seconds of gathering, as above, and the head's passes end at 18. Of
 * the blocks, 2 and 1 are still there. Head's gradients leave until 21, block 2's, which ends at
 * 20, until 24. Then come block 0's weights, asked for at 20, until 27, and block 1's gradients
 * leave until 30. Block 0 passes from 27 to 29; its gradients leave until 33, the embeddings' until
 * 36. A second micro-batch finds blocks 0 and 1 where they are, and the embeddings, which were sent
 * for when block 0 passed: it gathers block 2, the head and again block 0. */
static void parameters_are_gathered_for_each_pass(void **state)
{
    (void)state;
    lt_step_time t = step_of(LT_SHARD_PARAMETERS, 1, 4);
    expect(t.total, 36 + TOTALS, "one micro-batch");
    expect(t.communication, 3 * (5 + 1 + 5) + TOTALS, "communication");
    t = step_of(LT_SHARD_PARAMETERS, 2, 4);
    expect(t.communication, 3 * (5 + 1 + 5) + 3 * (1 + 3 + 5) + TOTALS, "of two micro-batches");
}

/* With 1 byte an exchange takes 0.75 seconds. The embeddings' weights are waited for, then block
 * 0's, which are asked for when the embeddings' are there. The head passes from 4.5 to 7.5, the
 * blocks until 13.5, and the last gradients leave until 15. In the next micro-batch block 2's
 * weights wait for these, until 15.75, where it passes; the head from 16.75 to 19.75, blocks until
 * 25.75; block 0's gradients leave until 26.5, and only then the embeddings'. */
static void short_gathers_hide_but_for_the_first(void **state)
{
    (void)state;
    expect(step_of(LT_SHARD_PARAMETERS, 1, 1).total, 15 + TOTALS, "one micro-batch");
    expect(step_of(LT_SHARD_PARAMETERS, 2, 1).total, 27.25 + TOTALS, "two micro-batches");
}

/* The frozen model in parts, an adapter beside it: blocks 0 and 1 are still there from the step
 * before. 4 bytes: embeddings at 3, block 2, asked for when block 1 passes at 4, at 7, the head at
 * 10; it passes until 13, block 2 until 15, block 1 until 17, block 0, asked for at 15, from 18 to
 * 20. The second micro-batch waits for the embeddings, asked for at 18, until 21; and then as the
 * first. 12 seconds for the adapter. 1 byte: all hides but the first embeddings. */
static void a_frozen_model_in_parts(void **state)
{
    (void)state;
    lt_step_work work = three;
    work.shard = LT_SHARD_PARAMETERS;
    work.adapter_bytes = 8;
    expect(lt_predict_step(&four, &work).total, 20 + 12 + TOTALS, "one micro-batch");
    expect(lt_predict_step(&four, &work).communication, 3 * 4 + 12 + TOTALS, "communication");
    work.micro_batches = 2;
    expect(lt_predict_step(&four, &work).total, 38 + 12 + TOTALS, "two micro-batches");
    work.embeddings.weight_bytes = work.block.weight_bytes = work.head.weight_bytes = 1;
    expect(lt_predict_step(&four, &work).total, 24.75 + 12 + TOTALS, "short ones");
    /* the head's, 6 seconds, are asked for when block 2 passes, 2 seconds after the embeddings are
     * there, and no sooner */
    work.head.weight_bytes = 8;
    expect(lt_predict_step(&four, &work).total, 0.75 + 2 * (2 + 6 + 9) + 12 + TOTALS,
           "a large head");
}

/* A tied embedding stays where it is all step long, and so does the head's norm: 2 gathers of the
 * ends, 4 + 2 of blocks. The head's gradients go where the embeddings' are: the second micro-batch
 * waits for them. */
static void a_tied_embedding_stays(void **state)
{
    (void)state;
    lt_step_work work = three;
    work.tied = true;
    work.micro_batches = 2;
    work.shard = LT_SHARD_PARAMETERS;
    expect(lt_predict_step(&four, &work).communication, 3 * (2 + 6 + 10) + TOTALS, "full");
    work.adapter_bytes = 8;
    expect(lt_predict_step(&four, &work).communication, 3 * 4 + 12 + TOTALS, "frozen");
    work = three;
    work.tied = true;
    work.micro_batches = 2;
    work.shard = LT_SHARD_GRADIENTS;
    expect(lt_predict_step(&four, &work).total, 51 + TOTALS, "gradients");
}

/* Frozen blocks have no backward, and nothing of them is exchanged but parts of weights. An
 * adapter's gradients are one all-reduce at the end. */
static void adapters_and_frozen_blocks(void **state)
{
    (void)state;
    lt_step_work work = three;
    work.first_trained = 2;
    work.embeddings.backward = 7;
    expect(lt_predict_step(&four, &work).total, 8 + 10 + TOTALS, "two blocks frozen");
    expect(lt_predict_step(&four, &work).compute, 8, "compute");
    work.shard = LT_SHARD_OPTIMIZER;
    expect(lt_predict_step(&four, &work).communication, 3 * (2 + 2) + TOTALS, "and divided");
    work = three;
    work.adapter_bytes = 8;
    expect(lt_predict_step(&four, &work).total, 12 + 12 + TOTALS, "an adapter");
    work.shard = LT_SHARD_OPTIMIZER;
    expect(lt_predict_step(&four, &work).total, 12 + 12 + TOTALS, "an adapter, not divided");
}

/* All blocks frozen, in parts; 1 is in its room from the step before. Embeddings at 3, block 0 at
 * 6, block 2, asked for at 7, at 10, the head at 13: it passes until 16, its gradients leave until
 * 19. Only then the embeddings may come into its room, until 22, block 0 until 25, block 2 until
 * 29, the head until 32; it passes until 35, its gradients leave until 38. */
static void only_the_head_is_trained(void **state)
{
    (void)state;
    lt_step_work work = three;
    work.first_trained = 3;
    work.shard = LT_SHARD_PARAMETERS;
    work.micro_batches = 2;
    expect(lt_predict_step(&four, &work).total, 38 + TOTALS, "two micro-batches");
}

static void the_optimizer_goes_at_the_speed_of_memory(void **state)
{
    (void)state;
    lt_step_work work = three;
    lt_cluster cluster = four;
    work.optimizer_bytes = 10;
    cluster.memory_bandwidth = 4;
    lt_step_time t = lt_predict_step(&cluster, &work);
    expect(t.optimizer, 2.5, "optimizer");
    expect(t.total, t.compute + t.exposed + t.optimizer, "total");
    expect(t.efficiency, 1 - t.exposed / t.total, "efficiency");
}

/* Where one processor does both, nothing hides. */
static void without_overlap_everything_is_exposed(void **state)
{
    (void)state;
    lt_cluster cluster = four;
    cluster.overlaps = false;
    for (int level = 0; level < LT_SHARD_LEVELS; level++) {
        lt_step_work work = three;
        work.shard = (lt_shard)level;
        work.micro_batches = 2;
        lt_step_time t = lt_predict_step(&cluster, &work);
        expect(t.exposed, t.communication, lt_clusters[0].name);
        expect(t.total, t.compute + t.communication, "total");
    }
}

/* Two hosts of two: each card has a ring, which crosses once each way. 1 byte a second of a card,
 * 2 of a host, against 3 of a link: 2 count. A hop between hosts, two within: 5 + 2 * 2 seconds,
 * and 1 for the call. */
static void hosts_share_their_network_cards(void **state)
{
    (void)state;
    lt_cluster cluster = four;
    cluster.devices_per_host = 2;
    cluster.link_bandwidth = 3;
    cluster.call_latency = 1;
    cluster.link_latency = 2;
    cluster.host_latency = 5;
    lt_step_work work = {.micro_batches = 1, .layers = 0, .shard = LT_SHARD_OPTIMIZER};
    work.head.gradient_bytes = 8;
    double empty = 1 + 2 * 2 + 5;
    double gather = empty;                                   /* of the head, without a byte */
    double reduce = 1 + 3.0 / 4 * 8 / 2 + 2 * 2 + 5;         /* ring */
    double sum = 1 + 2 * 3.0 / 4 * 32 / 2 + 2 * (1 * 2 + 5); /* tree: one hop down, one across */
    expect(lt_predict_step(&cluster, &work).communication, gather + reduce + sum, "two hosts");
    cluster.link_bandwidth = 1.5; /* now the links count */
    reduce = 1 + 3.0 / 4 * 8 / 1.5 + 2 * 2 + 5;
    sum = 1 + 2 * 3.0 / 4 * 32 / 1.5 + 2 * (2 + 5);
    expect(lt_predict_step(&cluster, &work).communication, gather + reduce + sum, "slow links");
}

/* --- For any work and cluster ------------------------------------------------------------------
 */

typedef struct numbers {
    uint64_t state;
} numbers;

static double number(numbers *n, double most)
{
    n->state = n->state * 6364136223846793005u + 1442695040888963407u;
    return most * (double)(n->state >> 40) / (double)(1 << 24);
}

static lt_unit_work any_unit(numbers *n)
{
    return (lt_unit_work){number(n, 4), number(n, 8), number(n, 9), number(n, 9)};
}

static lt_step_work any_work(numbers *n)
{
    lt_step_work w = {.shard = (lt_shard)(int)number(n, LT_SHARD_LEVELS),
                      .micro_batches = 1 + (int64_t)number(n, 4),
                      .layers = 1 + (int64_t)number(n, 6)};
    w.embeddings = any_unit(n);
    w.block = any_unit(n);
    w.head = any_unit(n);
    w.optimizer_bytes = number(n, 9);
    if (number(n, 1) < 0.2) w.adapter_bytes = 1;
    if (number(n, 1) < 0.3) w.first_trained = w.layers - 1;
    w.tied = number(n, 1) < 0.3;
    return w;
}

static lt_cluster any_cluster(numbers *n)
{
    lt_cluster c = four;
    c.devices = 1 + (int)number(n, 40);
    c.devices_per_host = 1 + (int)number(n, 8);
    c.link_bandwidth = 1 + number(n, 20);
    c.host_bandwidth = 1 + number(n, 5);
    c.call_latency = number(n, 0.1);
    c.link_latency = number(n, 0.1);
    c.host_latency = number(n, 0.2);
    c.overlaps = number(n, 1) < 0.8;
    return c;
}

static void not_slower(const lt_cluster *better, const lt_step_work *w, double total,
                       const char *what)
{
    double now = lt_predict_step(better, w).total;
    if (now > total * (1 + 1e-12)) fail_msg("%s: %.17g is slower than %.17g", what, now, total);
}

static void what_holds_for_any_step(void **state)
{
    (void)state;
    numbers n = {.state = 1};
    for (int i = 0; i < 2000; i++) {
        const lt_step_work w = any_work(&n);
        lt_cluster c = any_cluster(&n);
        const lt_step_time t = lt_predict_step(&c, &w);
        assert_true(t.exposed >= 0 && t.exposed <= t.communication * (1 + 1e-12));
        assert_true(t.efficiency > 0 && t.efficiency <= 1);
        assert_true(t.total >= t.compute + t.optimizer);
        if (!c.overlaps) expect(t.exposed, t.communication, "without overlap");
        lt_cluster better = c;
        better.link_bandwidth *= 1.5;
        not_slower(&better, &w, t.total, "faster links");
        better.host_bandwidth *= 3;
        not_slower(&better, &w, t.total, "faster network");
        better = c;
        better.link_latency = better.host_latency = 0;
        not_slower(&better, &w, t.total, "no latency");
        better = c;
        better.overlaps = true;
        not_slower(&better, &w, t.total, "overlap");
        better = c;
        better.flops *= 2;
        not_slower(&better, &w, t.total, "faster processors");
        better = c;
        better.devices = 1;
        const lt_step_time alone = lt_predict_step(&better, &w);
        assert_true(alone.communication == 0 && alone.exposed == 0 && alone.efficiency == 1);
        expect(alone.compute, t.compute, "compute alone");
    }
}

static void the_limit_is_what_helps_most(void **state)
{
    (void)state;
    lt_cluster c = four;
    lt_step_work w = three;
    w.optimizer_bytes = 1e4;
    assert_string_equal(lt_predict_step(&c, &w).limit, "memory");
    w.optimizer_bytes = 0;
    assert_string_equal(lt_predict_step(&c, &w).limit, "link");
    c.link_bandwidth = 1e9;
    assert_string_equal(lt_predict_step(&c, &w).limit, "compute");
    c.devices_per_host = 1;
    assert_string_equal(lt_predict_step(&c, &w).limit, "network");
    c.host_bandwidth = 1e9;
    c.host_latency = 100;
    assert_string_equal(lt_predict_step(&c, &w).limit, "latency");
}

/* --- Names and the table -----------------------------------------------------------------------
 */

static void clusters_have_names(void **state)
{
    (void)state;
    assert_null(lt_cluster_by_name("8xH10"));
    assert_null(lt_cluster_by_name(""));
    const lt_cluster *c = lt_cluster_by_name("512xH100");
    assert_non_null(c);
    assert_int_equal(c->devices, 512);
    for (c = lt_clusters; c->name; c++)
        assert_ptr_equal(lt_cluster_by_name(c->name), c);
}

static void the_table_says_what_fits(void **state)
{
    (void)state;
    lt_buffer out = {0};
    lt_cluster c = four;
    c.name = "four";
    c.memory = 2000000000;
    lt_scaling_row rows[2] = {{.cluster = &c, .work = three, .advice = "buy more"},
                              {.cluster = &c, .work = three}};
    for (int i = 0; i < 2; i++) {
        rows[i].work.tokens = 84 * 5;
        rows[i].work.memory = i == 0 ? 2000000001 : 2000000000;
    }
    assert_int_equal(lt_describe_scaling(rows, 2, &out, NULL), LT_OK);
    const char *expected =
        "clusters     estimates from published rates, none of them measured here; every GPU has "
        "the batch above\n"
        "             name        step s  compute  optimizer  exchange  exposed  efficiency    "
        "tokens/s  GB a GPU  fits limit\n"
        "             four        84.000   12.000      0.000    78.000   72.000        14 %      "
        "    20    2.0 of 2   no   link\n"
        "             four        84.000   12.000      0.000    78.000   72.000        14 %      "
        "    20    2.0 of 2   yes  link\n"
        "             four: buy more\n";
    assert_string_equal(lt_buffer_text(&out), expected);
    lt_buffer_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(none_reduces_from_the_head_on),
        cmocka_unit_test(what_is_shorter_than_a_block_hides),
        cmocka_unit_test(optimizer_gathers_once_and_reduces_once),
        cmocka_unit_test(gradients_leave_by_two_rooms),
        cmocka_unit_test(parameters_are_gathered_for_each_pass),
        cmocka_unit_test(short_gathers_hide_but_for_the_first),
        cmocka_unit_test(a_frozen_model_in_parts),
        cmocka_unit_test(a_tied_embedding_stays),
        cmocka_unit_test(adapters_and_frozen_blocks),
        cmocka_unit_test(only_the_head_is_trained),
        cmocka_unit_test(the_optimizer_goes_at_the_speed_of_memory),
        cmocka_unit_test(without_overlap_everything_is_exposed),
        cmocka_unit_test(hosts_share_their_network_cards),
        cmocka_unit_test(what_holds_for_any_step),
        cmocka_unit_test(the_limit_is_what_helps_most),
        cmocka_unit_test(clusters_have_names),
        cmocka_unit_test(the_table_says_what_fits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
