/* The optimizer's state on file, by and for any number of processes: the bytes are those of one,
 * and everybody reads back what it steps. Where that is in the file is checked against the pieces
 * that the model hands out, which say where it is in an undivided state. */
#include "../file_group.h"
#include "../folder.h"

#include "base/rng.h"
#include "model/adapter.h"
#include "model/formats/safetensors.h"
#include "train/optimizer.h"

#define GOLDEN(name) LATHE_TEST_DIR "/golden/models/" name

static lt_backend *cpu;
static lt_backend half; /* the same, holding weights in bf16 as a GPU does */

static int set_up(void **state)
{
    lt_err err;
    if (make_folder_in_memory(state) != 0) return -1;
    if (lt_backend_create(&(lt_backend_settings){.threads = 1}, &cpu, &err) != LT_OK) return -1;
    half = *cpu;
    half.real = LT_BF16;
    return 0;
}

static int tear_down(void **state)
{
    lt_backend_free(cpu);
    return remove_folder(state);
}

/* --- What is trained, and how ------------------------------------------------------------------
 */

typedef struct scenario {
    const char *model;
    lt_optimizer_kind kind;
    bool half_weights, offload;
    lt_trainable trainable;
    bool lora; /* an adapter, whose state every process has */
} scenario;

static const scenario scenarios[] = {
    {GOLDEN("gpt2_odd"), LT_ADAMW, false, false, {0}, false},
    {GOLDEN("llama"), LT_ADAMW_BF16, true, false, {0}, false},
    {GOLDEN("gpt2_odd"), LT_ADAMW_8BIT, false, false, {0}, false},
    {GOLDEN("qwen2"), LT_ADAMW_8BIT, true, true, {0}, false},
    {GOLDEN("gpt_neox"),
     LT_ADAMW_8BIT,
     false,
     false,
     {.freeze_layers = 1, .freeze = "mlp.*bias"},
     false},
    {GOLDEN("llama"), LT_ADAMW, false, false, {.train = "final_norm"}, false},
    {GOLDEN("llama"), LT_ADAMW_8BIT, false, false, {0}, true},
};
enum { SCENARIOS = sizeof scenarios / sizeof *scenarios };

/* A process with its part of the model, and its optimizer. */
typedef struct member {
    lt_model *model;
    lt_optimizer optimizer;
    const char *path;
} member;

static void open_member(const scenario *s, lt_sharding sharding, member *out)
{
    lt_err err = {0};
    const lt_backend *backend = s->half_weights ? &half : cpu;
    const lt_model_load_settings load = {.matrices = backend->real, .sharding = sharding};
    const lt_optimizer_settings settings = {.kind = s->kind, .offload = s->offload, .threads = 1};
    *out = (member){0};
    must(lt_model_load_with(s->model, backend, &load, &out->model, &err), &err);
    if (s->lora) {
        lt_adapter_config config = {.kind = LT_ADAPTER_LORA, .r = 3, .lora_alpha = 6};
        lt_adapter *adapter;
        must(lt_adapter_choose_targets(out->model->config.family, "all-linear", &config, &err),
             &err);
        must(lt_adapter_create(out->model, &config, "a", 1, &adapter, &err), &err);
        lt_adapter_config_free(&config);
    } else {
        must(lt_model_set_trainable(out->model, &s->trainable, &err), &err);
    }
    must(lt_model_allocate_gradients(out->model, &err), &err);
    must(lt_optimizer_create(out->model, &settings, &out->optimizer, &err), &err);
}

static void close_member(member *m)
{
    lt_optimizer_free(&m->optimizer);
    lt_model_free(m->model);
}

static void scramble(lt_tensor t, int64_t first, int64_t count, uint64_t seed)
{
    if (!t.data) return;
    size_t size = lt_dtype_size(t.dtype);
    unsigned char *bytes = (unsigned char *)t.data + (size_t)first * size;
    for (size_t i = 0; i < (size_t)count * size; i++)
        bytes[i] = (unsigned char)lt_random_below(seed, (uint64_t)first, i, 256);
}

/* Anything at all in rows and scales; gaps between rows stay as they are. */
static void fill_state(member *m)
{
    lt_optimizer *o = &m->optimizer;
    for (int i = 0; i < m->model->param_count; i++) {
        const lt_param *p = &m->model->params[i];
        int64_t count = p->shape[0] * (p->ndim == 2 ? p->shape[1] : 1);
        if (!p->trainable) continue;
        scramble(o->m, p->gradient_offset, count, 1);
        scramble(o->v, p->gradient_offset, count, 2);
        scramble(o->master, p->gradient_offset, count, 3);
    }
    if (!o->m_scale.data) return;
    scramble(o->m_scale, 0, o->m_scale.shape[0], 4);
    scramble(o->v_scale, 0, o->v_scale.shape[0], 5);
}

/* --- Checks ------------------------------------------------------------------------------------
 */

static void assert_same_run(lt_tensor a, int64_t first_a, lt_tensor b, int64_t first_b,
                            int64_t count)
{
    size_t size = lt_dtype_size(a.dtype);
    assert_int_equal(a.dtype, b.dtype);
    if (!a.data) return;
    assert_memory_equal((char *)a.data + (size_t)first_a * size,
                        (char *)b.data + (size_t)first_b * size, (size_t)count * size);
}

/* Returns how many elements it steps. */
static int64_t check_state(const member *one, const member *whole)
{
    const lt_optimizer *o = &one->optimizer, *w = &whole->optimizer;
    int64_t total = 0;
    for (int i = 0; i < o->piece_count; i++) {
        const lt_own_piece *p = &o->pieces[i];
        int64_t block = p->state_offset / LT_QUANTISED_BLOCK;
        int64_t whole_block = p->element / LT_QUANTISED_BLOCK;
        int64_t blocks = (p->count + LT_QUANTISED_BLOCK - 1) / LT_QUANTISED_BLOCK;
        assert_same_run(o->m, p->state_offset, w->m, p->element, p->count);
        assert_same_run(o->v, p->state_offset, w->v, p->element, p->count);
        assert_same_run(o->master, p->state_offset, w->master, p->element, p->count);
        assert_same_run(o->m_scale, block, w->m_scale, whole_block, blocks);
        assert_same_run(o->v_scale, block, w->v_scale, whole_block, blocks);
        total += p->count;
    }
    return total;
}

static void assert_same_bytes(const char *a, const char *b)
{
    lt_buffer first = {0}, second = {0};
    lt_err err;
    must(lt_read_file(a, 1 << 26, &first, &err), &err);
    must(lt_read_file(b, 1 << 26, &second, &err), &err);
    if (first.size != second.size || memcmp(first.data, second.data, first.size) != 0)
        fail_msg("%s and %s differ", a, b);
    lt_buffer_free(&first);
    lt_buffer_free(&second);
}

/* Scales of one process are in the file as they are in its memory. */
static void check_scales(const char *path, const char *name, lt_tensor scales)
{
    lt_safetensors file;
    lt_err err;
    if (!scales.data) return;
    must(lt_safetensors_open(path, &file, &err), &err);
    const lt_safetensors_entry *entry = lt_safetensors_find(&file, name);
    assert_non_null(entry);
    assert_int_equal(entry->size, (size_t)scales.shape[0] * sizeof(float));
    assert_memory_equal(entry->data, scales.data, entry->size);
    lt_safetensors_close(&file);
}

static lt_status save(void *context, const lt_file_group *group, lt_err *err)
{
    const member *m = context;
    return lt_optimizer_save(&m->optimizer, m->model, m->path, group, err);
}

/* Reads what one process wrote, and writes it again. */
static void check_world(const scenario *s, const member *whole, lt_shard level, int world)
{
    member members[MAX_PROCESSES];
    void *contexts[MAX_PROCESSES];
    lt_status statuses[MAX_PROCESSES];
    lt_err err = {0};
    int64_t stepped = 0;
    for (int r = 0; r < world; r++) {
        member *m = contexts[r] = &members[r];
        open_member(s, (lt_sharding){.level = level, .rank = r, .world_size = world}, m);
        must(lt_optimizer_load(&m->optimizer, m->model, at("alone"), &err), &err);
        stepped += check_state(m, whole);
        m->path = at("together");
    }
    int64_t copies = level == LT_SHARD_NONE || s->lora ? world : 1;
    assert_int_equal(stepped, copies * whole->model->gradient_count);
    run_processes(world, save, contexts, statuses, &err);
    for (int r = 0; r < world; r++) {
        must(statuses[r], &err);
        close_member(&members[r]);
    }
    assert_same_bytes(at("alone"), at("together"));
    must(lt_remove_tree(at("together"), &err), &err);
}

static void any_number_of_processes_reads_and_writes_the_same_file(void **state)
{
    (void)state;
    for (int i = 0; i < SCENARIOS; i++) {
        const scenario *s = &scenarios[i];
        lt_err err = {0};
        member whole;
        open_member(s, (lt_sharding){0}, &whole);
        fill_state(&whole);
        must(lt_optimizer_save(&whole.optimizer, whole.model, at("alone"), NULL, &err), &err);
        check_scales(at("alone"), "m_scale", whole.optimizer.m_scale);
        check_scales(at("alone"), "v_scale", whole.optimizer.v_scale);
        for (int level = LT_SHARD_NONE; level < LT_SHARD_LEVELS; level++)
            for (int world = 2; world <= MAX_PROCESSES; world++)
                if (!s->lora || level == LT_SHARD_NONE || level == LT_SHARD_PARAMETERS)
                    check_world(s, &whole, (lt_shard)level, world);
        check_world(s, &whole, LT_SHARD_NONE, 1);
        close_member(&whole);
    }
}

/* --- In several files --------------------------------------------------------------------------
 */

enum { SHARD_BYTES = 4000 };

static lt_status save_sharded(void *context, const lt_file_group *group, lt_err *err)
{
    const member *m = context;
    return lt_optimizer_save_sharded(&m->optimizer, m->model, m->path, SHARD_BYTES, group, err);
}

static const char *file_of(const char *name, int number, int count)
{
    static char file[64];
    snprintf(file, sizeof file, "%s-%05d-of-%05d.safetensors", name, number, count);
    return at(file);
}

/* None holds more than it may, unless it is one tensor. */
static int check_files(void)
{
    lt_err err = {0};
    int count = 1;
    while (count < 100 && !lt_path_exists(file_of("several", 1, count)))
        count++;
    for (int number = 1; number <= count; number++) {
        lt_safetensors file;
        size_t bytes = 0;
        must(lt_safetensors_open(file_of("several", number, count), &file, &err), &err);
        for (size_t i = 0; i < file.count; i++)
            bytes += file.entries[i].size;
        assert_true(file.count == 1 || bytes <= SHARD_BYTES);
        lt_safetensors_close(&file);
    }
    return count;
}

static void compare_files(int count)
{
    for (int number = 1; number <= count; number++) {
        char alone[256];
        snprintf(alone, sizeof alone, "%s", file_of("several", number, count));
        assert_same_bytes(alone, file_of("shared", number, count));
    }
}

static void large_state_is_in_several_files(void **state)
{
    (void)state;
    enum { WORLD = 3, WHOLE_MODELS = 4 };
    for (int i = 0; i < WHOLE_MODELS; i++) {
        const scenario *s = &scenarios[i];
        member whole, members[WORLD];
        void *contexts[WORLD];
        lt_status statuses[WORLD];
        char several[256], shared[256];
        lt_err err = {0};
        snprintf(several, sizeof several, "%s", at("several.safetensors"));
        snprintf(shared, sizeof shared, "%s", at("shared.safetensors"));
        open_member(s, (lt_sharding){0}, &whole);
        fill_state(&whole);
        whole.path = several;
        must(save_sharded(&whole, NULL, &err), &err);
        int count = check_files();
        assert_in_range(count, 2, 99);
        for (int r = 0; r < WORLD; r++) {
            const lt_sharding sharding = {LT_SHARD_OPTIMIZER, r, WORLD};
            member *m = contexts[r] = &members[r];
            open_member(s, sharding, m);
            must(lt_optimizer_load(&m->optimizer, m->model, several, &err), &err);
            check_state(m, &whole);
            m->path = shared;
        }
        run_processes(WORLD, save_sharded, contexts, statuses, &err);
        for (int r = 0; r < WORLD; r++) {
            must(statuses[r], &err);
            close_member(&members[r]);
        }
        compare_files(count);
        assert_int_equal(unlink(file_of("several", count, count)), 0);
        assert_int_equal(lt_optimizer_load(&whole.optimizer, whole.model, several, &err),
                         LT_ERR_IO);
        assert_non_null(strstr(err.message, strrchr(file_of("several", count, count), '/')));
        for (int number = 1; number <= count; number++) {
            must(lt_remove_tree(file_of("several", number, count), &err), &err);
            must(lt_remove_tree(file_of("shared", number, count), &err), &err);
        }
        close_member(&whole);
    }
}

static void one_that_fails_fails_all(void **state)
{
    (void)state;
    member members[2];
    void *contexts[2] = {&members[0], &members[1]};
    lt_status statuses[2];
    lt_err err;
    for (int bad = 0; bad < 2; bad++) {
        for (int r = 0; r < 2; r++) {
            const lt_sharding sharding = {.level = LT_SHARD_OPTIMIZER, .rank = r, .world_size = 2};
            open_member(&scenarios[0], sharding, &members[r]);
            members[r].path = r == bad ? at("not/there") : at("file");
        }
        run_processes(2, save, contexts, statuses, &err);
        for (int r = 0; r < 2; r++) {
            assert_int_equal(statuses[r], LT_ERR_IO);
            close_member(&members[r]);
        }
        assert_non_null(strstr(err.message, "not/there"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_number_of_processes_reads_and_writes_the_same_file),
        cmocka_unit_test(large_state_is_in_several_files),
        cmocka_unit_test(one_that_fails_fails_all),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
