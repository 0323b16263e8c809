/* Several processes write what one would have written: safetensors files tensor by tensor or in
 * pieces, and whole model directories; and what comes of it when one of them fails. */
#include "../file_group.h"
#include "files.h"
#include "model/formats/hf_save.h"

/* --- Files of tensors --------------------------------------------------------------------------
 */

static const lt_safetensors_declaration tensors[] = {
    {"small", LT_F32, 1, {3}},     {"large", LT_F32, 2, {50, 7}}, {"none", LT_F32, 2, {0, 4}},
    {"half", LT_BF16, 2, {9, 11}}, {"codes", LT_U8, 1, {301}},    {"b.bias", LT_F32, 1, {40}},
    {"a.bias", LT_F32, 1, {40}},   {"half.2", LT_BF16, 1, {1}},
};
enum { TENSORS = sizeof tensors / sizeof *tensors, GIVEN = TENSORS - 1 };

static size_t declared(const char *name)
{
    size_t i = 0;
    while (strcmp(tensors[i].name, name) != 0)
        i++;
    return i;
}

static size_t bytes_of(size_t index)
{
    const lt_safetensors_declaration *t = &tensors[index];
    size_t bytes = lt_dtype_size(t->dtype);
    for (int i = 0; i < t->ndim; i++)
        bytes *= (size_t)t->shape[i];
    return bytes;
}

static unsigned char content_of(size_t index, size_t byte)
{
    return (unsigned char)(index * 37 + byte * 11 + byte / 256 + 1);
}

/* One process that writes. */
typedef struct writer {
    char path[256];
    int fail_at;                                /* the call that fails; -1: none */
    size_t asked[GIVEN + 1], wanted[GIVEN + 1]; /* which tensors, in order; and those to fill */
    int asked_count, wanted_count;
} writer;

static lt_status give(void *context, const char *name, void *out, lt_err *err)
{
    writer *w = context;
    size_t index = declared(name);
    bool fails = w->asked_count == w->fail_at;
    w->asked[w->asked_count++] = index;
    if (fails) return lt_fail(err, LT_ERR_NUMERIC, "no data for %s", name);
    if (!out) return LT_OK;
    w->wanted[w->wanted_count++] = index;
    for (size_t i = 0; i < bytes_of(index); i++)
        ((unsigned char *)out)[i] = content_of(index, i);
    return LT_OK;
}

static lt_status write_tensors(void *context, const lt_file_group *group, lt_err *err)
{
    writer *w = context;
    return lt_safetensors_write_together(w->path, tensors, TENSORS, NULL, give, w, group, err);
}

/* Every process a stretch of every tensor, and the last of them first. */
static lt_status write_pieces(void *context, const lt_file_group *group, lt_err *err)
{
    const writer *w = context;
    lt_safetensors_writer file;
    size_t world = (size_t)group->world_size, rank = (size_t)group->rank;
    LT_TRY(lt_safetensors_begin(&file, w->path, tensors, TENSORS, NULL, group, err));
    for (size_t i = file.count; i-- > 0;) {
        size_t index = (size_t)(file.tensors[i] - tensors), bytes = bytes_of(index);
        size_t first = bytes * rank / world, end = bytes * (rank + 1) / world;
        unsigned char data[4096];
        for (size_t at = first; at < end; at++)
            data[at - first] = content_of(index, at);
        lt_safetensors_put(&file, i, first, data, end - first);
    }
    return lt_safetensors_end(&file, err);
}

static void prepare(writer *writers, void **contexts, int world, const char *path)
{
    for (int r = 0; r < world; r++) {
        writers[r] = (writer){.fail_at = -1};
        snprintf(writers[r].path, sizeof writers[r].path, "%s", path);
        contexts[r] = &writers[r];
    }
}

static void assert_same_bytes(const char *a, const char *b)
{
    lt_buffer first = {0}, second = {0};
    OK(lt_read_file(a, 1 << 26, &first, err));
    OK(lt_read_file(b, 1 << 26, &second, err));
    if (first.size != second.size || memcmp(first.data, second.data, first.size) != 0)
        fail_msg("%s and %s differ", a, b);
    lt_buffer_free(&first);
    lt_buffer_free(&second);
}

static void write_alone(const char *path)
{
    writer alone = {.fail_at = -1};
    OK(lt_safetensors_write(path, tensors, TENSORS, NULL, give, &alone, err));
    assert_int_equal(alone.wanted_count, GIVEN);
}

static void any_number_of_processes_writes_the_same_bytes(void **state)
{
    (void)state;
    static const process_function ways[] = {write_tensors, write_pieces};
    new_directory("bytes");
    char alone[256], path[256];
    snprintf(alone, sizeof alone, "%s", scratch_path("bytes", "alone"));
    snprintf(path, sizeof path, "%s", scratch_path("bytes", "together"));
    write_alone(alone);
    for (int world = 1; world <= MAX_PROCESSES; world++) {
        for (size_t way = 0; way < 2; way++) {
            writer writers[MAX_PROCESSES];
            void *contexts[MAX_PROCESSES];
            lt_status statuses[MAX_PROCESSES];
            lt_err why;
            prepare(writers, contexts, world, path);
            run_processes(world, ways[way], contexts, statuses, &why);
            for (int r = 0; r < world; r++)
                if (statuses[r] != LT_OK) fail_msg("%s", why.message);
            assert_same_bytes(alone, path);
            OK(lt_remove_tree(path, err));
        }
    }
}

/* All are asked for all tensors in the file's order; each tensor is one process's, and none idles.
 */
static void every_tensor_is_one_process_s(void **state)
{
    (void)state;
    new_directory("shares");
    const int world = MAX_PROCESSES;
    writer writers[MAX_PROCESSES];
    void *contexts[MAX_PROCESSES];
    lt_status statuses[MAX_PROCESSES];
    lt_err why;
    int wanted = 0;
    prepare(writers, contexts, world, scratch_path("shares", "file"));
    run_processes(world, write_tensors, contexts, statuses, &why);
    for (int r = 0; r < world; r++) {
        assert_int_equal(statuses[r], LT_OK);
        assert_int_equal(writers[r].asked_count, GIVEN);
        assert_memory_equal(writers[r].asked, writers[0].asked, sizeof writers[0].asked);
        assert_true(writers[r].wanted_count > 0);
        wanted += writers[r].wanted_count;
    }
    assert_int_equal(wanted, GIVEN);
    assert_int_equal(writers[0].asked[0], declared("a.bias"));
    assert_int_equal(writers[0].asked[GIVEN - 1], declared("codes"));
}

/* The others may be waiting for it in what they do together: so it goes on to the end. */
static void one_that_fails_fails_all(void **state)
{
    (void)state;
    const int world = 3;
    new_directory("failing");
    for (int bad = 0; bad < world; bad++) {
        for (int call = 0; call < GIVEN; call++) {
            writer writers[MAX_PROCESSES];
            void *contexts[MAX_PROCESSES];
            lt_status statuses[MAX_PROCESSES];
            lt_err why;
            prepare(writers, contexts, world, scratch_path("failing", "file"));
            writers[bad].fail_at = call;
            run_processes(world, write_tensors, contexts, statuses, &why);
            for (int r = 0; r < world; r++) {
                assert_int_equal(statuses[r], LT_ERR_NUMERIC);
                assert_int_equal(writers[r].asked_count, GIVEN);
            }
            assert_non_null(strstr(why.message, "no data for "));
            OK(lt_remove_tree(scratch_path("failing", "file"), err));
        }
    }
}

static void one_that_can_not_write_fails_all(void **state)
{
    (void)state;
    const int world = 3;
    new_directory("unreachable");
    for (int bad = 0; bad < world; bad++) {
        for (size_t way = 0; way < 2; way++) {
            writer writers[MAX_PROCESSES];
            void *contexts[MAX_PROCESSES];
            lt_status statuses[MAX_PROCESSES];
            lt_err why;
            prepare(writers, contexts, world, scratch_path("unreachable", "file"));
            snprintf(writers[bad].path, sizeof writers[bad].path, "%s",
                     scratch_path("unreachable", "not/there"));
            run_processes(world, way ? write_pieces : write_tensors, contexts, statuses, &why);
            for (int r = 0; r < world; r++)
                assert_int_equal(statuses[r], LT_ERR_IO);
            assert_non_null(strstr(why.message, "not/there"));
            OK(lt_remove_tree(scratch_path("unreachable", "file"), err));
        }
    }
}

/* --- Models ------------------------------------------------------------------------------------
 */

/* One process that saves a model. */
typedef struct saver {
    lt_model *model;
    char directory[256];
    uint64_t shard_bytes;
} saver;

static lt_status save(void *context, const lt_file_group *group, lt_err *err)
{
    const saver *s = context;
    return lt_model_save_sharded(s->model, s->directory, LT_F32, s->shard_bytes, group, err);
}

static void assert_same_directories(const char *a, const char *b)
{
    lt_name_list first, second;
    OK(lt_list_directory(a, &first, err));
    OK(lt_list_directory(b, &second, err));
    assert_int_equal(first.count, second.count);
    for (size_t i = 0; i < first.count; i++) {
        char x[512], y[512];
        assert_string_equal(first.names[i], second.names[i]);
        snprintf(x, sizeof x, "%s/%s", a, first.names[i]);
        snprintf(y, sizeof y, "%s/%s", b, first.names[i]);
        assert_same_bytes(x, y);
    }
    lt_name_list_free(&first);
    lt_name_list_free(&second);
}

/* models: [world]. As the one process of `whole` saves it. */
static void check_saved(const lt_model *whole, lt_model *const *models, int world)
{
    static const uint64_t limits[] = {5000000000u, 20000};
    for (size_t i = 0; i < 2; i++) {
        saver savers[MAX_PROCESSES];
        void *contexts[MAX_PROCESSES];
        lt_status statuses[MAX_PROCESSES];
        lt_err why;
        char alone[256];
        snprintf(alone, sizeof alone, "%s", new_directory("alone"));
        const char *together = new_directory("together");
        OK(lt_model_save_sharded(whole, alone, LT_F32, limits[i], NULL, err));
        for (int r = 0; r < world; r++) {
            savers[r] = (saver){.model = models[r], .shard_bytes = limits[i]};
            snprintf(savers[r].directory, sizeof savers[r].directory, "%s", together);
            contexts[r] = &savers[r];
        }
        run_processes(world, save, contexts, statuses, &why);
        for (int r = 0; r < world; r++)
            if (statuses[r] != LT_OK) fail_msg("%s", why.message);
        assert_same_directories(alone, together);
    }
}

static void whole_models_are_saved_together(void **state)
{
    (void)state;
    for (int i = 0; i < GOLDEN_COUNT; i++) {
        lt_model *model = load_golden(golden_names[i], NULL, backend);
        lt_model *models[MAX_PROCESSES] = {model, model, model, model};
        check_saved(model, models, 1 + i % MAX_PROCESSES);
        lt_model_free(model);
    }
}

typedef struct gathering {
    lt_model *const *models;
    int rank, world;
} gathering;

/* What collectives would do: every process's part of the unit into the room of this one. */
static lt_status gather(void *context, const lt_unit *unit, lt_unit_point point, lt_err *err)
{
    const gathering *g = context;
    (void)point;
    (void)err;
    lt_tensor whole = lt_unit_weights(g->models[g->rank], unit);
    for (int r = 0; r < g->world; r++) {
        lt_tensor part = lt_unit_weight_part(g->models[r], unit);
        size_t bytes = (size_t)part.shape[0] * lt_dtype_size(part.dtype);
        memcpy((char *)whole.data + (size_t)r * bytes, part.data, bytes);
    }
    return LT_OK;
}

static void models_in_parts_are_saved_together(void **state)
{
    (void)state;
    static const char *const names[] = {"gpt2_odd", "gpt_neox", "qwen2", "qwen3_sharded"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        lt_model *whole = load_golden(names[i], NULL, backend), *models[MAX_PROCESSES];
        gathering gatherings[MAX_PROCESSES];
        int world = 2 + (int)i % 3;
        for (int r = 0; r < world; r++) {
            const lt_model_load_settings settings = {
                .matrices = backend->real,
                .sharding = {.level = LT_SHARD_PARAMETERS, .rank = r, .world_size = world}};
            OK(lt_model_load_with(golden_path(names[i], NULL), backend, &settings, &models[r],
                                  err));
            gatherings[r] = (gathering){.models = models, .rank = r, .world = world};
            models[r]->observer = (lt_unit_observer){.context = &gatherings[r], .at = gather};
        }
        check_saved(whole, models, world);
        for (int r = 0; r < world; r++)
            lt_model_free(models[r]);
        lt_model_free(whole);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_number_of_processes_writes_the_same_bytes),
        cmocka_unit_test(every_tensor_is_one_process_s),
        cmocka_unit_test(one_that_fails_fails_all),
        cmocka_unit_test(one_that_can_not_write_fails_all),
        cmocka_unit_test(whole_models_are_saved_together),
        cmocka_unit_test(models_in_parts_are_saved_together),
    };
    return cmocka_run_group_tests(tests, set_up_files, tear_down_files);
}
