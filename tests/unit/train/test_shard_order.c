/* Which collective begins, and is waited for, at which point of a pass: what makes them overlap
 * with computing. The communicator is a list. */
#include "../check.h"

#include "base/fsio.h"
#include "train/shard.h"

enum { MAX_COLLECTIVES = 256, LAYERS = 3 };

static lt_backend *backend;
static lt_model *model;
static lt_sharder *sharder;
static lt_workspace *workspace;
static lt_unit_observer observer; /* the sharder's */
static char directory[] = "/tmp/lathe-order-XXXXXX";

/* --- The list ----------------------------------------------------------------------------------
 * F0 B0: forward, backward of unit 0 begins; b0: is done. +g0 -g0: its gather begins, is waited
 * for. r: reduce-scatter, a: all-reduce. */

static char list[4096];
static char names[MAX_COLLECTIVES][16];
static uint64_t sequence;
static int unit_told;

static void __attribute__((format(printf, 1, 2))) note(const char *format, ...)
{
    size_t used = strlen(list);
    va_list arguments;
    if (used > 0) list[used++] = ' ';
    va_start(arguments, format);
    vsnprintf(list + used, sizeof list - used, format, arguments);
    va_end(arguments);
}

static lt_status begin(char kind, int unit, lt_comm_ticket *ticket)
{
    assert_true(++sequence < MAX_COLLECTIVES);
    ticket->sequence = sequence;
    snprintf(names[sequence], sizeof names[sequence], "%c%d", kind, unit);
    note("+%s", names[sequence]);
    return LT_OK;
}

int lt_comm_size(const lt_comm *comm)
{
    (void)comm;
    return 2;
}

lt_status lt_comm_all_reduce(lt_comm *comm, lt_tensor t, lt_comm_ticket *ticket, lt_err *err)
{
    (void)comm, (void)t, (void)err;
    return begin('a', unit_told, ticket);
}

lt_status lt_comm_reduce_scatter(lt_comm *comm, lt_tensor whole, lt_tensor part,
                                 lt_comm_ticket *ticket, lt_err *err)
{
    (void)comm, (void)whole, (void)part, (void)err;
    return begin('r', unit_told, ticket);
}

lt_status lt_comm_all_gather(lt_comm *comm, lt_tensor part, lt_tensor whole, lt_comm_ticket *ticket,
                             lt_err *err)
{
    (void)comm, (void)whole, (void)err;
    for (int i = 0; i < LAYERS + 2; i++)
        if (lt_unit_weight_part(model, &model->units[i]).data == part.data)
            return begin('g', i - 1, ticket);
    fail_msg("some other part is gathered");
    return LT_ERR_INTERNAL;
}

lt_status lt_comm_wait(lt_comm *comm, lt_comm_ticket *ticket, lt_err *err)
{
    (void)comm, (void)err;
    if (ticket->sequence) note("-%s", names[ticket->sequence]);
    *ticket = (lt_comm_ticket){0};
    return LT_OK;
}

static lt_status at(void *context, const lt_unit *unit, lt_unit_point point, lt_err *err)
{
    static const char signs[] = {
        [LT_BEFORE_FORWARD] = 'F', [LT_BEFORE_BACKWARD] = 'B', [LT_AFTER_BACKWARD] = 'b'};
    unit_told = unit->layer;
    if (point != LT_AFTER_FORWARD) note("%c%d", signs[point], unit->layer);
    return observer.at(context, unit, point, err);
}

/* --- Steps -------------------------------------------------------------------------------------
 */

static void open_model(lt_shard level, const lt_trainable *trainable)
{
    lt_err err = {0};
    const lt_model_load_settings load = {.matrices = LT_F32, .sharding = {level, 0, 2}};
    const lt_workspace_settings settings = {.rows = 1, .length = 4, .training = true};
    sequence = 0;
    must(lt_model_load_with(directory, backend, &load, &model, &err), &err);
    must(lt_sharder_create(model, NULL, &sharder, &err), &err);
    must(lt_model_set_trainable(model, trainable, &err), &err);
    must(lt_model_allocate_gradients(model, &err), &err);
    must(lt_sharder_prepare_gradients(sharder, &err), &err);
    must(lt_workspace_create(model, &settings, &workspace, &err), &err);
    observer = model->observer;
    model->observer.at = at;
}

static void close_model(void)
{
    lt_workspace_free(workspace);
    lt_sharder_free(sharder);
    lt_model_free(model);
}

static void expect(const char *expected)
{
    if (strcmp(list, expected) != 0) fail_msg("%s\nis not\n%s", list, expected);
    list[0] = 0;
}

/* A process without rows: it tells, and computes nothing. */
static void pass(bool first, bool last)
{
    lt_err err = {0};
    const lt_batch nothing = {.length = 4};
    const lt_dropout_mask none = {0};
    list[0] = 0;
    lt_sharder_begin_micro_batch(sharder, first, last);
    must(lt_model_forward_backward(model, workspace, &nothing, none,
                                   lt_sharder_accumulate(sharder, first), NULL, &err),
         &err);
}

static void finish(void)
{
    lt_err err = {0};
    list[0] = 0;
    must(lt_sharder_finish_gradients(sharder, &err), &err);
    must(lt_sharder_begin_weights(sharder, &err), &err);
}

static const lt_trainable all = {0};

static void none_reduces_while_backward_goes_on(void **state)
{
    (void)state;
    open_model(LT_SHARD_NONE, &all);
    pass(true, false);
    expect("F-1 F0 F1 F2 F3 B3 b3 B2 b2 B1 b1 B0 b0 B-1 b-1");
    pass(false, true);
    expect("F-1 F0 F1 F2 F3 B3 b3 +a3 B2 b2 +a2 B1 b1 +a1 B0 b0 +a0 B-1 b-1 +a-1");
    finish();
    expect("-a3 -a2 -a1 -a0 -a-1");
    close_model();
}

static void optimizer_gathers_while_forward_comes(void **state)
{
    (void)state;
    open_model(LT_SHARD_OPTIMIZER, &all);
    pass(true, true);
    expect("F-1 F0 F1 F2 F3 B3 b3 +r3 B2 b2 +r2 B1 b1 +r1 B0 b0 +r0 B-1 b-1 +r-1");
    finish();
    expect("-r3 -r2 -r1 -r0 -r-1 +g-1 +g0 +g1 +g2 +g3");
    pass(true, false);
    expect("F-1 -g-1 F0 -g0 F1 -g1 F2 -g2 F3 -g3 B3 b3 B2 b2 B1 b1 B0 b0 B-1 b-1");
    close_model();
}

/* A room is waited for when it is needed again, and not before. */
static void gradients_scatter_each_micro_batch(void **state)
{
    (void)state;
    open_model(LT_SHARD_GRADIENTS, &all);
    pass(true, false);
    expect("F-1 F0 F1 F2 F3 B3 b3 +r3 B2 b2 +r2 B1 b1 +r1 B0 -r2 b0 +r0 B-1 -r3 b-1 +r-1");
    pass(false, true);
    expect("F-1 F0 F1 F2 F3 B3 -r-1 b3 +r3 B2 -r0 b2 -r3 +r2 B1 -r1 b1 -r2 +r1 B0 b0 -r1 +r0 "
           "B-1 b-1 -r0 +r-1");
    finish();
    expect("-r-1 +g-1 +g0 +g1 +g2 +g3");
    close_model();
}

static void parameters_come_one_unit_ahead(void **state)
{
    (void)state;
    open_model(LT_SHARD_PARAMETERS, &all);
    pass(true, false);
    expect("F-1 +g-1 -g-1 +g0 F0 -g0 +g1 F1 -g1 +g2 F2 -g2 +g3 F3 -g3 B3 b3 +r3 B2 b2 +r2 B1 "
           "+g0 b1 +r1 B0 -r2 -g0 +g-1 b0 +r0 B-1 -r3 b-1 +r-1");
    pass(false, true);
    expect("F-1 -g-1 F0 F1 +g2 F2 -g2 +g3 F3 -g3 B3 -r-1 b3 +r3 B2 -r0 b2 -r3 +r2 B1 -r1 +g0 "
           "b1 -r2 +r1 B0 -g0 b0 -r1 +r0 B-1 b-1 -r0 +r-1");
    finish();
    expect("-r-1 +g-1");
    close_model();
}

/* Nothing is gathered below what is trained, nor into the room that is in use. */
static void only_what_is_needed_comes(void **state)
{
    (void)state;
    open_model(LT_SHARD_PARAMETERS, &(lt_trainable){.freeze_layers = 2});
    pass(true, true);
    expect("F-1 +g-1 -g-1 +g0 F0 -g0 +g1 F1 -g1 +g2 F2 -g2 +g3 F3 -g3 B3 b3 +r3 B2 b2 +r2");
    finish();
    expect("-r3 -r2 +g-1");
    close_model();
    open_model(LT_SHARD_PARAMETERS, &(lt_trainable){.train = "lm_head"});
    pass(true, false);
    expect("F-1 +g-1 -g-1 +g0 F0 -g0 +g1 F1 -g1 +g2 F2 -g2 +g3 F3 -g3 B3 b3 +r3");
    close_model();
}

static int set_up(void **state)
{
    const lt_backend_settings machine = {.threads = 1};
    lt_err err = {0};
    lt_model_config config;
    const lt_model_shape shape = {.family = "llama",
                                  .layers = LAYERS,
                                  .hidden_size = 16,
                                  .heads = 2,
                                  .max_position = 8,
                                  .vocab_size = 32,
                                  .bos_token_id = -1,
                                  .eos_token_id = -1,
                                  .pad_token_id = -1};
    (void)state;
    if (!mkdtemp(directory)) return -1;
    must(lt_backend_create(&machine, &backend, &err), &err);
    must(lt_model_config_make(&shape, &config, &err), &err);
    config.tie_word_embeddings = false;
    must(lt_model_create(&config, backend, 1, &model, &err), &err);
    must(lt_model_save(model, directory, LT_F32, &err), &err);
    lt_model_free(model);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    lt_backend_free(backend);
    return lt_remove_tree(directory, NULL) == LT_OK ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(none_reduces_while_backward_goes_on),
        cmocka_unit_test(optimizer_gathers_while_forward_comes),
        cmocka_unit_test(gradients_scatter_each_micro_batch),
        cmocka_unit_test(parameters_come_one_unit_ahead),
        cmocka_unit_test(only_what_is_needed_comes),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
