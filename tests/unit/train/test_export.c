/* Export where a script does not reach: exports that fail half-way or do not compute what they
 * should, interruption, room, and what a model card says of what it is given. */
#include "../folder.h"
#include "../message.h"

#include <math.h>

#include "model/adapters/internal.h"
#include "train/export/internal.h"

#define MODELS   LATHE_TEST_DIR "/golden/models/"
#define ADAPTERS LATHE_TEST_DIR "/golden/adapters/"

static lt_backend *backend;

static int set_up(void **state)
{
    const lt_backend_settings machine = {.threads = 1};
    memset(&err, 0, sizeof err);
    if (make_folder(state) != 0) return -1;
    return lt_backend_create(&machine, &backend, &err) == LT_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    lt_backend_free(backend);
    return remove_folder(state);
}

static void put(const char *path, const char *text)
{
    ok(lt_write_file(path, text, strlen(text), &err));
}

static int64_t names_in(const char *path)
{
    lt_name_list names;
    ok(lt_list_directory(path, &names, &err));
    int64_t count = (int64_t)names.count;
    lt_name_list_free(&names);
    return count;
}

static lt_opened_model open_golden(const char *model, const char *adapter)
{
    lt_opened_model opened;
    const lt_adapter_source source = {.name = "a", .directory = adapter};
    ok(lt_open_model(model, &source, adapter ? 1 : 0, false, backend, &opened, &err));
    return opened;
}

static lt_export_settings settings_for(lt_export_format format, const char *output)
{
    return (lt_export_settings){.format = format,
                                .output = output,
                                .dtype = LT_F32,
                                .max_shard_bytes = 5000000000u,
                                .merge = true,
                                .verify = true,
                                .model_directory = MODELS "gpt2"};
}

/* --- Failing ---------------------------------------------------------------------------------- */

static const lt_export_format model_formats[] = {LT_EXPORT_HF, LT_EXPORT_GGUF};

static const char *target_of(lt_export_format format)
{
    return format == LT_EXPORT_GGUF ? at("x.gguf") : at("x");
}

static void change_weight(const lt_opened_model *opened, float value)
{
    const lt_param *param = lt_model_param(opened->model, "layers.0.mlp.up.weight");
    ((float *)param->weight.data)[3] = value;
}

static void test_what_is_no_f16(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        lt_opened_model opened = open_golden(MODELS "gpt2", NULL);
        lt_export_settings s = settings_for(model_formats[i], target_of(model_formats[i]));
        lt_export_report report;
        change_weight(&opened, 65520);
        s.dtype = LT_F16;
        refused(lt_export(&opened, backend, &s, &report, &err), LT_ERR_NUMERIC,
                i == 0 ? "has the value 65520" : "F16");
        assert_int_equal(names_in(folder), 0);
        s.dtype = LT_F32;
        ok(lt_export(&opened, backend, &s, &report, &err));
        assert_true(report.verified && report.bound > 0);
        assert_true(report.logits_relative <= report.bound);
        lt_export_report_free(&report);
        lt_close_model(&opened);
        ok(lt_remove_tree(s.output, &err));
    }
}

/* The base on the disk is not the one in memory. */
static void test_what_does_not_verify_is_not_left(void **state)
{
    (void)state;
    lt_opened_model opened = open_golden(MODELS "gpt2", ADAPTERS "gpt2_lora");
    char target[256];
    snprintf(target, sizeof target, "%s", at("x"));
    lt_export_settings s = settings_for(LT_EXPORT_PEFT, target);
    lt_export_report report;
    s.adapter_directory = ADAPTERS "gpt2_lora";
    change_weight(&opened, 5);
    refused(lt_export(&opened, backend, &s, &report, &err), LT_ERR_NUMERIC, "nothing was written");
    assert_int_equal(names_in(folder), 0);
    ok(lt_make_directories(target, &err));
    put(at("x/adapter_config.json"), "{}");
    put(at("x/old"), "");
    s.force = true;
    refused(lt_export(&opened, backend, &s, &report, &err), LT_ERR_NUMERIC, "nothing was written");
    assert_true(lt_path_exists(at("x/old")));
    assert_int_equal(names_in(folder), 1);
    s.verify = false;
    ok(lt_export(&opened, backend, &s, &report, &err));
    assert_false(report.verified);
    assert_false(lt_path_exists(at("x/old")));
    lt_export_report_free(&report);
    lt_close_model(&opened);
}

static void test_interrupted(void **state)
{
    (void)state;
    static volatile sig_atomic_t cancelled = 1;
    for (int i = 0; i < 2; i++) {
        lt_opened_model opened = open_golden(MODELS "gpt2", NULL);
        lt_export_settings s = settings_for(model_formats[i], target_of(model_formats[i]));
        lt_export_report report;
        s.cancelled = &cancelled;
        refused(lt_export(&opened, backend, &s, &report, &err), LT_ERR_INTERRUPTED,
                "nothing was written");
        assert_int_equal(names_in(folder), 0);
        lt_close_model(&opened);
    }
}

static void test_no_room(void **state)
{
    (void)state;
    lt_export_settings s = settings_for(LT_EXPORT_HF, at("x"));
    const lt_export_job job = {.settings = &s};
    refused(lt_export_check_space(&job, (uint64_t)1 << 62, &err), LT_ERR_IO,
            "the export takes up to 4611686018431.6 MB, and ");
    assert_non_null(strstr(err.message, " MB are free"));
    assert_non_null(strstr(err.message, folder));
    ok(lt_export_check_space(&job, 1, &err));
}

/* A file of another adapter: every product is looked at. */
static void test_adapter_files_are_compared(void **state)
{
    (void)state;
    lt_opened_model opened = open_golden(MODELS "llama", ADAPTERS "llama_lora");
    lt_model *model = opened.model;
    const lt_gguf_export what = {.format = LT_GGUF_FILE_BF16, .name = "x"};
    ok(lt_adapter_save_gguf(model, model->adapters[0], at("a.gguf"), &what, &err));
    ok(lt_adapter_check_gguf(model, model->adapters[0], at("a.gguf"), &err));
    for (int i = model->own_param_count; i < model->param_count; i++) {
        float *value = model->params[i].weight.data, kept = value[1];
        value[1] += 0.5f;
        refused(lt_adapter_check_gguf(model, model->adapters[0], at("a.gguf"), &err),
                LT_ERR_NUMERIC, "was read back with");
        value[1] = kept;
    }
    lt_opened_model other = open_golden(MODELS "llama", ADAPTERS "llama_lora_patterns");
    refused(lt_adapter_check_gguf(other.model, other.model->adapters[0], at("a.gguf"), &err),
            LT_ERR_FORMAT, "");
    model->adapters[0]->linears[0].rank = 0; /* as if it did not adapt that one */
    refused(lt_adapter_check_gguf(model, model->adapters[0], at("a.gguf"), &err), LT_ERR_FORMAT,
            "tensors, and the adapter ");
    lt_close_model(&other);
    lt_close_model(&opened);
}

static void test_comparing(void **state)
{
    (void)state;
    float before[] = {3, -4, 0}, after[] = {3, -4, 0};
    const lt_logit_probe a = {before, 3}, b = {after, 3}, shorter = {after, 2};
    lt_logit_difference difference;
    ok(lt_compare_logits(&a, &b, 0, "it", &difference, &err));
    after[2] = 0.5f;
    ok(lt_compare_logits(&a, &b, 0.11, "it", &difference, &err));
    assert_true(fabs(difference.relative - 0.1) < 1e-9 && fabs(difference.worst - 0.5) < 1e-9);
    assert_true(fabs(difference.largest - 4) < 1e-9);
    refused(lt_compare_logits(&a, &b, 0.09, "the copy", &difference, &err), LT_ERR_NUMERIC,
            "the copy does not compute");
    after[2] = NAN;
    refused(lt_compare_logits(&a, &b, 100, "it", &difference, &err), LT_ERR_NUMERIC, "nan");
    assert_true(isnan(difference.worst));
    refused(lt_compare_logits(&a, &shorter, 100, "it", &difference, &err), LT_ERR_FORMAT,
            "other sizes");
}

/* --- Settings --------------------------------------------------------------------------------- */

static void test_shard_sizes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"5GB", 5000000000u},
                {"500mb", 500000000},
                {"2GiB", (uint64_t)2 << 30},
                {"7", 7},
                {"10KB", 10000},
                {"3B", 3}};
    static const char *const bad[] = {
        "", "0", "GB", "-1", "1.5GB", "5 GB", "5XB", "5GBB", "18446744073709551616", "99999999TB"};
    uint64_t bytes;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        ok(lt_parse_shard_size(good[i].text, &bytes, &err));
        assert_int_equal(bytes, good[i].bytes);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refused(lt_parse_shard_size(bad[i], &bytes, &err), LT_ERR_USAGE, "--max-shard-size");
}

/* --- The model card --------------------------------------------------------------------------- */

static void write_run(void)
{
    ok(lt_make_directories(at("run/final"), &err));
    put(at("run/final/trainer_state.json"),
        "{\"global_step\": 7, \"best_metric\": NaN, \"lathe\": {\"dataset_hash\": \"d41d8\", "
        "\"train_loss\": 1.25}}");
    put(at("run/train_config.yaml"), "model: \"EleutherAI/pythia-70m\"\ndata: \"/home/me/x.h5\"\n"
                                     "method: \"full\"\nlearning_rate: 0.5\nlr_scheduler: null\n"
                                     "epochs: 3\nmax_steps: 7\nwarmup_steps: 0\nwarmup_ratio: 0.5\n"
                                     "seed: 1|2\n");
    put(at("run/final/results_2025.json"), "{\"results\": {\"old\": {\"acc,none\": 0.5}}}");
    put(at("run/final/results_2026.json"),
        "{\"results\": {\"a|b\": {\"alias\": \"x\", \"acc,none\": 0.25, \"acc_stderr,none\": "
        "0.125, \"em,strict|a\": 0.75, \"ppl\": 2.5}}}");
}

static void test_card(void **state)
{
    (void)state;
    write_run();
    lt_opened_model opened = open_golden(MODELS "gpt2", NULL);
    lt_export_settings s = settings_for(LT_EXPORT_HF, at("my-model/"));
    s.model_directory = at("run/final");
    s.model_name = "run/final";
    lt_buffer card = {0};
    ok(lt_model_card(&opened, &s, NULL, &card, &err));
    static const char *const there[] = {
        "---\nbase_model: EleutherAI/pythia-70m\n",
        "library_name: transformers\n",
        "\n# my-model\n",
        "| Steps | 7 |",
        "| Data (XXH3-128 of the dataset) | d41d8 |",
        "| Training loss | 1.25 |",
        "| Method | full |",
        "| learning_rate | 0.5 |",
        "| seed | 1\\|2 |",
        "| max_steps | 7 |",
        "| warmup_ratio | 0.5 |", /* no number of steps overrules it */
        ("| a\\|b | acc | 0.2500 | 0.1250 |\n| a\\|b | em, strict\\|a | 0.7500 |  |\n"
         "| a\\|b | ppl | 2.5000 |  |")};
    static const char *const absent[] = {"old",    "/home/me", "lr_scheduler", "NaN",
                                         "stderr", "vocab ",   "| epochs |"};
    for (size_t i = 0; i < sizeof there / sizeof *there; i++)
        if (!strstr(card.data, there[i])) fail_msg("'%s' is not in:\n%s", there[i], card.data);
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++)
        if (strstr(card.data, absent[i])) fail_msg("'%s' is in:\n%s", absent[i], card.data);
    lt_buffer_free(&card);
    put(at("run/final/trainer_state.json"), "[1]");
    refused(lt_model_card(&opened, &s, NULL, &card, &err), LT_ERR_FORMAT, "is not a JSON object");
    lt_close_model(&opened);
}

/* A name that is a path here is nobody's model on the Hub. */
static void test_base_of_the_hub(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        bool hub;
    } cases[] = {{"org/name-1.5_b", true}, {"name", false},      {"/a/b", false}, {"a/b/c", false},
                 {"../a", false},          {"or g/name", false}, {"/tmp", false}, {NULL, false}};
    lt_opened_model opened = open_golden(MODELS "gpt2", NULL);
    lt_export_settings s = settings_for(LT_EXPORT_HF, at("x"));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lt_buffer card = {0};
        s.model_name = cases[i].name;
        ok(lt_model_card(&opened, &s, NULL, &card, &err));
        assert_int_equal(strstr(card.data, "base_model: ") != NULL, cases[i].hub);
        lt_buffer_free(&card);
    }
    lt_close_model(&opened);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_what_is_no_f16),
        TEST(test_what_does_not_verify_is_not_left),
        TEST(test_interrupted),
        TEST(test_no_room),
        TEST(test_adapter_files_are_compared),
        TEST(test_comparing),
        TEST(test_shard_sizes),
        TEST(test_card),
        TEST(test_base_of_the_hub),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
