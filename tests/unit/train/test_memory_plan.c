/* The bytes that one of 8 or 64 processes takes, for models of 7, 13 and 70 billion parameters at
 * every level of sharding, worked out by hand; and what the printed set-up says of them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "train/scaling.h"
#include "train/trainer.h"

/* Sanitized arenas have 256 bytes that nobody may touch behind each of a few arrays. */
#if defined(__SANITIZE_ADDRESS__)
#define GUARDS (40 * 256)
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define GUARDS (40 * 256)
#endif
#endif
#ifndef GUARDS
#define GUARDS 0
#endif

static lt_train_settings settings;
static lt_option_result parsed;
static lt_trainer trainer;
static lt_err failure;

#define OK(call)                                                         \
    do {                                                                 \
        if ((call) != LT_OK) fail_msg("%s: %s", #call, failure.message); \
    } while (0)

/* As `lathe train --dry-run --device cuda --model PRESET --max-length 4096 --micro-batch-size 1
 * --recompute block` and `words` (at most 12) gets to its plan. */
static void prepare(const char *preset, lt_shard level, int processes, const char *words)
{
    char text[512], *argv[24];
    int argc = 0;
    snprintf(text, sizeof text,
             "--dry-run --device cuda --model %s --max-length 4096 --micro-batch-size 1 "
             "--recompute block --shard %s %s",
             preset, lt_shard_name(level), words);
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    settings = (lt_train_settings){0};
    OK(lt_options_parse(&lt_train_options, argc, argv, &settings, &parsed, &failure));
    if (settings.gradient_accumulation_steps == 0) settings.gradient_accumulation_steps = 1;
    trainer = (lt_trainer){.settings = settings, .world_size = processes};
    if (processes > 1) trainer.sharding = (lt_sharding){.level = level, .world_size = processes};
    const lt_device_choice choice = {.device = "cuda", .plan_only = true};
    OK(lt_device_open(&choice, &trainer.device, &failure));
    trainer.backend = trainer.device.backend;
    const lt_model_shape shape = {.preset = preset,
                                  .vocab_size = lt_model_preset_vocab(preset),
                                  .bos_token_id = -1,
                                  .eos_token_id = -1,
                                  .pad_token_id = -1};
    OK(lt_model_config_make(&shape, &trainer.config, &failure));
    trainer.has_adapter = strcmp(settings.method, "full") != 0;
    if (trainer.has_adapter) OK(lt_adapter_setup(&trainer, &failure));
    if (settings.offload_optimizer) trainer.optimizer_settings.offload = true;
    OK(lt_trainer_plan(&trainer, &failure));
}

static void clean_up(void)
{
    lt_model_config_free(&trainer.config);
    lt_adapter_config_free(&trainer.adapter_config);
    lt_backend_free(trainer.backend);
    lt_buffer_free(&trainer.inventory);
    lt_buffer_free(&trainer.setup);
    lt_options_free(&lt_train_options, &settings, &parsed);
    trainer = (lt_trainer){0};
}

/* --- By hand -----------------------------------------------------------------------------------
 */

/* Elements of the units, which are padded to a multiple of processes x 256 where they are divided:
 *
 *          block                                                        as divided by 64 (16384)
 *    7B    4 x 4096^2 + 3 x 4096 x 11008 + 2 x 4096 = 202,383,360       12,353 x 16384
 *   13B    4 x 5120^2 + 3 x 5120 x 13824 + 2 x 5120 = 317,204,480       19,361 x 16384
 *   70B    2 x 8192^2 + 2 x 1024 x 8192 + 3 x 8192 x 28672
 *          + 2 x 8192 = 855,654,400                                     52,225 x 16384
 *          embeddings                            head and norm
 *    7B    32000 x 4096 = 131,072,000            + 4096 = 131,076,096   8000 and 8001 x 16384
 *   13B    32000 x 5120 = 163,840,000            + 5120 = 163,845,120   10,000 and 10,001 x 16384
 *   70B    32000 x 8192 = 262,144,000            + 8192 = 262,152,192   16,000 and 16,001 x 16384
 *
 * By 8 (2048) only the head of 13B needs padding: 80,003 x 2048. In all: embeddings + 32, 40 or 80
 * blocks + head = 6,738,415,616, 13,015,864,320 and 68,976,648,192 elements undivided.
 *
 *   weights     2 bytes an element; at `parameters` a part, two rooms of a block's size and one of
 *               the head's, which the embeddings share. And the rotary tables, 2 x 4096 x 64 x 4
 *               bytes = 2,097,152.
 *   gradients   4 bytes, likewise from `gradients` on
 *   master      4 bytes, a part from `optimizer` on
 *   moments     twice that
 *   exchange    32 bytes of sums, in 256; from `gradients` on a part of a block's gradients too
 *
 * 7B, 8 processes, parameters: weights 2 x 6,738,415,616 / 8 + 2 x (2 x 202,383,360 + 131,076,096)
 * + 2,097,152 = 2,758,386,688. */
static const struct expected {
    const char *preset;
    int processes;
    lt_shard level;
    uint64_t weights, gradients, master, exchange;
} expected[] = {
    {"llama-2-7b", 8, LT_SHARD_NONE, 13478928384, 26953662464, 26953662464, 256},
    {"llama-2-7b", 8, LT_SHARD_OPTIMIZER, 13478928384, 26953662464, 3369207808, 256},
    {"llama-2-7b", 8, LT_SHARD_GRADIENTS, 13478928384, 5512579072, 3369207808, 256 + 101191680},
    {"llama-2-7b", 8, LT_SHARD_PARAMETERS, 2758386688, 5512579072, 3369207808, 256 + 101191680},
    {"llama-2-7b", 64, LT_SHARD_NONE, 13478928384, 26953662464, 26953662464, 256},
    {"llama-2-7b", 64, LT_SHARD_OPTIMIZER, 13479477248, 26954760192, 421168128, 256},
    {"llama-2-7b", 64, LT_SHARD_GRADIENTS, 13479477248, 2564654080, 421168128, 256 + 12649472},
    {"llama-2-7b", 64, LT_SHARD_PARAMETERS, 1284424192, 2564654080, 421168128, 256 + 12649472},
    {"llama-2-13b", 8, LT_SHARD_NONE, 26033825792, 52063457280, 52063457280, 256},
    {"llama-2-13b", 8, LT_SHARD_OPTIMIZER, 26033827840, 52063461376, 6507932672, 256},
    {"llama-2-13b", 8, LT_SHARD_GRADIENTS, 26033827840, 9700953088, 6507932672, 256 + 158602240},
    {"llama-2-13b", 8, LT_SHARD_PARAMETERS, 4852573696, 9700953088, 6507932672, 256 + 158602240},
    {"llama-2-13b", 64, LT_SHARD_NONE, 26033825792, 52063457280, 52063457280, 256},
    {"llama-2-13b", 64, LT_SHARD_OPTIMIZER, 26034339840, 52064485376, 813507584, 256},
    {"llama-2-13b", 64, LT_SHARD_GRADIENTS, 26034339840, 4006618112, 813507584, 256 + 19825664},
    {"llama-2-13b", 64, LT_SHARD_PARAMETERS, 2005406208, 4006618112, 813507584, 256 + 19825664},
    {"llama-2-70b", 8, LT_SHARD_NONE, 137955393536, 275906592768, 275906592768, 256},
    {"llama-2-70b", 8, LT_SHARD_OPTIMIZER, 137955393536, 275906592768, 34488324096, 256},
    {"llama-2-70b", 8, LT_SHARD_GRADIENTS, 137955393536, 42382168064, 34488324096, 256 + 427827200},
    {"llama-2-70b", 8, LT_SHARD_PARAMETERS, 21193181184, 42382168064, 34488324096, 256 + 427827200},
    {"llama-2-70b", 64, LT_SHARD_NONE, 137955393536, 275906592768, 275906592768, 256},
    {"llama-2-70b", 64, LT_SHARD_OPTIMIZER, 137955409920, 275906625536, 4311041024, 256},
    {"llama-2-70b", 64, LT_SHARD_GRADIENTS, 137955409920, 12204917760, 4311041024, 256 + 53478400},
    {"llama-2-70b", 64, LT_SHARD_PARAMETERS, 6104556032, 12204917760, 4311041024, 256 + 53478400},
};

static void same(const struct expected *e, const char *what, uint64_t actual, uint64_t bytes)
{
    if (actual < bytes || actual - bytes > GUARDS)
        fail_msg("%s, %d processes, %s: %s take %llu bytes, expected %llu", e->preset, e->processes,
                 lt_shard_name(e->level), what, (unsigned long long)actual,
                 (unsigned long long)bytes);
}

static void every_level_takes_what_it_should(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        const struct expected *e = &expected[i];
        const lt_train_plan *p = &trainer.plan;
        prepare(e->preset, e->level, e->processes, "");
        same(e, "weights", p->model.weights, e->weights);
        same(e, "gradients", p->model.gradients, e->gradients);
        same(e, "master weights", p->optimizer.master, e->master);
        same(e, "moments", p->optimizer.moments, 2 * e->master);
        same(e, "exchanges", p->exchange, e->exchange);
        uint64_t own = p->optimizer.device - p->optimizer.master - p->optimizer.moments;
        assert_true(own < 1000000); /* the optimizer's scratch */
        same(e, "all", p->device,
             e->weights + e->gradients + 3 * e->master + e->exchange + p->model.activations +
                 p->scratch + own);
        clean_up();
    }
}

/* Activations are of the batch: no sharding touches them. */
static void activations_stay(void **state)
{
    (void)state;
    prepare("llama-2-7b", LT_SHARD_NONE, 1, "");
    size_t alone = trainer.plan.model.activations;
    clean_up();
    prepare("llama-2-7b", LT_SHARD_PARAMETERS, 64, "");
    assert_int_equal(trainer.plan.model.activations, alone);
    clean_up();
}

/* One process takes the same at any level. */
static void alone_nothing_is_divided(void **state)
{
    (void)state;
    prepare("llama-2-7b", LT_SHARD_NONE, 1, "");
    uint64_t none = trainer.plan.device;
    const lt_sharding all = {.level = LT_SHARD_PARAMETERS, .world_size = 1};
    lt_train_plan other;
    OK(lt_trainer_plan_for(&trainer, &all, &other, &failure));
    assert_int_equal(other.device, none);
    assert_int_equal(other.exchange, 0);
    clean_up();
}

/* Of LoRA on 70B only the frozen model is divided: 21,193,181,184 bytes as above. */
static void an_adapter_is_whole(void **state)
{
    (void)state;
    prepare("llama-2-70b", LT_SHARD_PARAMETERS, 8, "--method lora");
    assert_in_range(trainer.plan.model.weights, 21193181184, 21193181184 + GUARDS);
    uint64_t gradients = trainer.plan.model.gradients, moments = trainer.plan.optimizer.moments;
    clean_up();
    prepare("llama-2-70b", LT_SHARD_NONE, 1, "--method lora");
    assert_in_range(trainer.plan.model.weights, 137955393536, 137955393536 + GUARDS);
    assert_int_equal(trainer.plan.model.gradients, gradients);
    assert_int_equal(trainer.plan.optimizer.moments, moments);
    clean_up();
}

/* --- Texts -------------------------------------------------------------------------------------
 */

static const char *describe(void)
{
    lt_buffer_clear(&trainer.setup);
    OK(lt_describe_memory(&trainer, &trainer.setup, &failure));
    OK(lt_describe_clusters(&trainer, &trainer.setup, &failure));
    return lt_buffer_text(&trainer.setup);
}

static void has(const char *text, const char *line)
{
    if (!strstr(text, line)) fail_msg("'%s' is not in:\n%s", line, text);
}

static void has_not(const char *text, const char *line)
{
    if (strstr(text, line)) fail_msg("'%s' is in:\n%s", line, text);
}

static void the_table_says_what_is_divided(void **state)
{
    (void)state;
    prepare("llama-2-7b", LT_SHARD_PARAMETERS, 8, "");
    const char *text = describe();
    has(text, "for each of 8 processes\n");
    has(text, "             weights                2.76 GB  (bfloat16, a part of 8 and rooms)\n"
              "             gradients              5.51 GB  (a part of 8 and rooms)\n"
              "             master weights         3.37 GB  (a part of 8)\n"
              "             optimizer              6.74 GB  (adamw, a part of 8)\n");
    has(text, "             exchange               0.10 GB\n");
    has(text, "clusters     estimates");
    clean_up();
    prepare("llama-2-7b", LT_SHARD_OPTIMIZER, 8, "--method lora");
    text = describe();
    has(text, "             gradients              0.08 GB\n");
    has_not(text, "a part of");
    has_not(text, "\n             exchange ");
    clean_up();
    prepare("llama-2-7b", LT_SHARD_OPTIMIZER, 1, "");
    text = describe();
    has_not(text, "a part of");
    has_not(text, "processes");
    has_not(text, "clusters");
    clean_up();
}

/* 7B on 8xH100, 4096 tokens each. A block forward: 2 x 4096 x 202,375,168 elements of matrices, and
 * attention 4096 x 4 x 4096 x 4096, together 1.933e12 operations; 32 of them forward, twice that
 * backward, and once more since it is recomputed; the head 6 x 4096 x 131,072,000: 2.506e14 at 0.49
 * x 989e12 a second are 0.517 s. The optimizer: an eighth of 6.738e9 elements, of each its 12 bytes
 * of state twice, 4 of gradient twice, 2 of weight, at 3e12: 0.010 s. Exchanged: 7/8 of 2 bytes of
 * weight and 4 of gradient at 370.8e9, and 68 calls of 8.4 + 7 x 3.4 us: 0.098 s. */
static void a_step_is_worked_out(void **state)
{
    (void)state;
    prepare("llama-2-7b", LT_SHARD_OPTIMIZER, 8, "--cluster 8xH100");
    has(describe(), "             8xH100       0.532    0.517      0.010     0.098 ");
    clean_up();
}

/* For each cluster by itself. */
static void advice_is_what_the_model_finds(void **state)
{
    (void)state;
    prepare("llama-2-7b", LT_SHARD_NONE, 8, "");
    has(describe(), "             8xH100: does not fit 80 GB; --shard optimizer does, with 52.7\n");
    clean_up();
    prepare("llama-2-7b", LT_SHARD_PARAMETERS, 8, "--cluster 512xH100");
    const char *text = describe();
    has(text, "             512xH100 ");
    has(text, " 5.6 of 80"); /* a part of 512 */
    has_not(text, "8xH100 ");
    has_not(text, "512xH100:"); /* good as it is */
    clean_up();
    prepare("llama-2-70b", LT_SHARD_OPTIMIZER, 8, "--cluster 8xH100");
    has(describe(), "8xH100: does not fit 80 GB at any --shard; what helps: more GPUs, a smaller");
    clean_up();
    prepare("llama-2-7b", LT_SHARD_OPTIMIZER, 8, "--cluster 8xH100 --offload-optimizer");
    has(describe(), "clusters     no estimate: the optimizer's state is in host memory\n");
    clean_up();
}

static void refused(const char *words, const char *message)
{
    prepare("llama-2-7b", LT_SHARD_OPTIMIZER, 8, words);
    lt_err err = {0};
    if (strstr(words, "8xH100")) trainer.settings.dry_run = false;
    assert_int_equal(lt_describe_clusters(&trainer, &trainer.setup, &err), LT_ERR_USAGE);
    has(err.message, message);
    clean_up();
}

static void unknown_clusters_are_named(void **state)
{
    (void)state;
    refused("--cluster 8xH10,64xH100",
            "--cluster 8xH10: there is no such cluster; there are 8xH100, "
            "64xH100, 512xH100");
    refused("--cluster 64xH100,", "--cluster : there is no such cluster");
    refused("--cluster 8xH100", "--cluster is an estimate: it goes with --dry-run");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_level_takes_what_it_should),
        cmocka_unit_test(activations_stay),
        cmocka_unit_test(alone_nothing_is_divided),
        cmocka_unit_test(an_adapter_is_whole),
        cmocka_unit_test(the_table_says_what_is_divided),
        cmocka_unit_test(a_step_is_worked_out),
        cmocka_unit_test(advice_is_what_the_model_finds),
        cmocka_unit_test(unknown_clusters_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
