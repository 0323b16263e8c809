/* The loader on datasets made in memory: what a batch holds, that packing changes nothing but the
 * place, that ranks share the rows out, that seeking and prefetching give the same batches. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "data_pipeline/store.h"

/* `documents` of 2 .. longest tokens. Every token of the dataset is different, so a target tells
 * which document it is from. About a third of the tokens are trained, the last always. */
static lt_dataset *make_dataset(int64_t documents, int64_t longest, lt_record_format format)
{
    lt_dataset *dataset = calloc(1, sizeof *dataset);
    lt_split_data *split = &dataset->splits[LT_SPLIT_TRAIN];
    dataset->report.format = format;
    split->count = documents;
    split->offsets = calloc((size_t)documents + 1, sizeof *split->offsets);
    split->category = calloc((size_t)documents, sizeof *split->category);
    for (int64_t i = 0; i < documents; i++) {
        uint64_t length = 2 + lt_random_below(7, 1, (uint64_t)i, (uint64_t)longest - 1);
        split->offsets[i + 1] = split->offsets[i] + length;
        split->category[i] = LT_NO_CATEGORY;
    }
    split->token_count = (int64_t)split->offsets[documents];
    split->tokens = calloc((size_t)split->token_count, sizeof *split->tokens);
    split->mask = calloc((size_t)split->token_count, 1);
    for (int64_t i = 0; i < split->token_count; i++) {
        split->tokens[i] = (int32_t)i;
        split->mask[i] = format == LT_FORMAT_TEXT || lt_random_below(7, 2, (uint64_t)i, 3) == 0;
    }
    for (int64_t i = 0; i < documents; i++)
        split->mask[split->offsets[i + 1] - 1] = 1;
    return dataset;
}

static lt_loader *make_loader(const lt_dataset *dataset, lt_loader_settings settings)
{
    lt_loader *loader = NULL;
    lt_err err = {0};
    if (lt_loader_create(dataset, &settings, &loader, &err) != LT_OK) fail_msg("%s", err.message);
    return loader;
}

static lt_batch next(lt_loader *loader)
{
    lt_batch batch;
    assert_int_equal(lt_loader_next(loader, &batch, NULL), LT_OK);
    return batch;
}

/* What an epoch teaches, by target token: input, position, and how often. */
typedef struct lesson {
    int32_t input, position;
    int64_t times;
} lesson;

/* Reads one epoch from the loader into lessons[tokens]; returns the padding tokens given out. */
static int64_t read_epoch(lt_loader *loader, lesson *lessons)
{
    int64_t padding = 0;
    for (int64_t b = lt_loader_batches_per_epoch(loader); b > 0; b--) {
        lt_batch batch = next(loader);
        int64_t trained = 0;
        for (int64_t i = 0; i < batch.rows * batch.length; i++) {
            int64_t at = i % batch.length;
            int32_t target = batch.targets[i], position = batch.positions[i];
            assert_in_range(batch.first_key[i], 0, at);
            /* a token's position counts from where its document begins in the row */
            assert_int_equal(position, at - batch.first_key[i]);
            if (position > 0) assert_int_equal(batch.input_ids[i], batch.input_ids[i - 1] + 1);
            if (target == LT_IGNORE) {
                padding += position == 0 && at > 0 && batch.first_key[i] == at;
                continue;
            }
            trained++;
            assert_int_equal(target, batch.input_ids[i] + 1);
            lessons[target] = (lesson){batch.input_ids[i], position, lessons[target].times + 1};
        }
        assert_int_equal(trained, batch.trained_tokens);
    }
    return padding;
}

static void packed_and_unpacked_teach_the_same(void **state)
{
    (void)state;
    const lt_record_format formats[] = {LT_FORMAT_DOLLY, LT_FORMAT_TEXT};
    for (int f = 0; f < 2; f++) {
        lt_dataset *dataset = make_dataset(9000, 60, formats[f]);
        const lt_split_data *split = &dataset->splits[LT_SPLIT_TRAIN];
        size_t bytes = (size_t)split->token_count * sizeof(lesson);
        lesson *lessons[4];
        int64_t padding = 0, rows = 0;
        for (int i = 0; i < 4; i++) { /* unpacked, packed; in order, shuffled */
            lt_loader *loader = make_loader(
                dataset,
                (lt_loader_settings){
                    .rows = 5, .max_length = 64, .packing = i & 1, .shuffle = i & 2, .seed = 3});
            lessons[i] = calloc(1, bytes);
            padding = read_epoch(loader, lessons[i]);
            rows = lt_loader_rows_per_epoch(loader);
            assert_int_equal(lt_loader_left_out(loader), 0);
            if (i) assert_memory_equal(lessons[i], lessons[0], bytes);
            lt_loader_free(loader);
        }
        /* Each trained token that has one before it is a target once, and no other is. */
        for (int64_t d = 0; d < split->count; d++) {
            for (uint64_t t = split->offsets[d]; t < split->offsets[d + 1]; t++) {
                bool trained = split->mask[t] && t > split->offsets[d];
                assert_int_equal(lessons[0][t].times, trained);
                if (trained) assert_int_equal(lessons[0][t].position, t - 1 - split->offsets[d]);
            }
        }
        /* High fill: packed rows are at least 97 % full. */
        assert_true(padding <= rows * 64 * 3 / 100);
        for (int i = 0; i < 4; i++)
            free(lessons[i]);
        lt_dataset_close(dataset);
    }
}

static void text_is_cut_into_windows(void **state)
{
    (void)state;
    lt_dataset *dataset = make_dataset(200, 300, LT_FORMAT_TEXT);
    const lt_split_data *split = &dataset->splits[LT_SPLIT_TRAIN];
    for (int packing = 0; packing < 2; packing++) {
        lt_loader *loader = make_loader(
            dataset, (lt_loader_settings){.rows = 3, .max_length = 32, .packing = packing});
        lesson *lessons = calloc((size_t)split->token_count, sizeof *lessons);
        read_epoch(loader, lessons);
        for (int64_t d = 0; d < split->count; d++) {
            for (uint64_t t = split->offsets[d]; t < split->offsets[d + 1]; t++) {
                assert_int_equal(lessons[t].times, t > split->offsets[d]);
                if (t > split->offsets[d])
                    assert_int_equal(lessons[t].position, (t - 1 - split->offsets[d]) % 32);
            }
        }
        free(lessons);
        lt_loader_free(loader);
    }
    lt_dataset_close(dataset);
}

static uint64_t digest(const lt_batch *batch)
{
    uint64_t sum = (uint64_t)batch->rows * 31 + (uint64_t)batch->length;
    for (int64_t i = 0; i < batch->rows * batch->length; i++)
        sum = sum * 0x9E3779B97F4A7C15u + (uint32_t)batch->input_ids[i] * 7 +
              (uint32_t)batch->targets[i] * 5 + (uint32_t)batch->positions[i] * 3 +
              (uint32_t)batch->first_key[i];
    return sum;
}

static void ranks_share_the_rows(void **state)
{
    (void)state;
    lt_dataset *dataset = make_dataset(501, 40, LT_FORMAT_DOLLY);
    const lt_split_data *split = &dataset->splits[LT_SPLIT_TRAIN];
    for (int64_t world = 1; world <= 4; world++) {
        lesson *lessons = calloc((size_t)split->token_count, sizeof *lessons);
        int64_t batches = -1;
        for (int64_t rank = 0; rank < world; rank++) {
            lt_loader *loader = make_loader(dataset, (lt_loader_settings){.rows = 7,
                                                                          .max_length = 40,
                                                                          .packing = world & 1,
                                                                          .shuffle = true,
                                                                          .rank = rank,
                                                                          .world_size = world});
            if (rank) assert_int_equal(lt_loader_batches_per_epoch(loader), batches);
            batches = lt_loader_batches_per_epoch(loader);
            read_epoch(loader, lessons);
            lt_loader_free(loader);
        }
        for (int64_t d = 0; d < split->count; d++) {
            for (uint64_t t = split->offsets[d] + 1; t < split->offsets[d + 1]; t++)
                assert_int_equal(lessons[t].times, split->mask[t]);
        }
        free(lessons);
    }
    lt_dataset_close(dataset);
}

/* Batch k of n ranks is batches k * n to k * n + n - 1 of one, so that nothing about a micro-batch
 * (its padding, its dropout masks) tells how many processes there are. */
static void ranks_take_turns_at_the_same_batches(void **state)
{
    (void)state;
    lt_dataset *dataset = make_dataset(501, 40, LT_FORMAT_DOLLY);
    lt_loader_settings settings = {.rows = 7, .max_length = 40, .packing = true, .shuffle = true};
    lt_loader *alone = make_loader(dataset, settings), *ranks[3];
    const int64_t count = lt_loader_batches_per_epoch(alone);
    for (settings.world_size = 2; settings.world_size <= 3; settings.world_size++) {
        const int64_t world = settings.world_size;
        assert_int_equal(lt_loader_seek(alone, (lt_loader_position){0}, NULL), LT_OK);
        for (int64_t rank = 0; rank < world; rank++) {
            settings.rank = rank;
            ranks[rank] = make_loader(dataset, settings);
            assert_int_equal(lt_loader_batches_per_epoch(ranks[rank]), (count + world - 1) / world);
        }
        for (int64_t i = 0; i < (count + world - 1) / world * world; i++) {
            lt_batch mine = next(ranks[i % world]);
            if (i >= count) {
                assert_int_equal(mine.rows, 0);
                continue;
            }
            lt_batch same = next(alone);
            assert_true(digest(&mine) == digest(&same));
        }
        for (int64_t rank = 0; rank < world; rank++)
            lt_loader_free(ranks[rank]);
    }
    lt_loader_free(alone);
    lt_dataset_close(dataset);
}

static void ranks_without_rows_get_empty_batches(void **state)
{
    (void)state;
    lt_dataset *tiny = make_dataset(2, 10, LT_FORMAT_DOLLY);
    lt_loader *loader = make_loader(
        tiny, (lt_loader_settings){.rows = 4, .max_length = 16, .rank = 2, .world_size = 3});
    assert_int_equal(next(loader).rows, 0);
    lt_loader_free(loader);
    lt_dataset_close(tiny);
}

static void seeking_gives_the_same_batches(void **state)
{
    (void)state;
    lt_dataset *dataset = make_dataset(120, 40, LT_FORMAT_DOLLY);
    lt_loader_settings settings = {
        .rows = 4, .max_length = 48, .packing = true, .shuffle = true, .seed = 11};
    lt_loader *loader = make_loader(dataset, settings);
    enum { BATCHES = 60 };
    uint64_t digests[BATCHES];
    lt_loader_position positions[BATCHES];
    for (int i = 0; i < BATCHES; i++) {
        positions[i] = lt_loader_tell(loader);
        lt_batch batch = next(loader);
        digests[i] = digest(&batch);
    }
    int64_t per_epoch = lt_loader_batches_per_epoch(loader);
    assert_true(per_epoch > 3 && per_epoch < BATCHES / 2);
    assert_int_equal(positions[per_epoch].epoch, 1);
    assert_int_equal(positions[per_epoch].batch, 0);
    assert_true(digests[0] != digests[per_epoch]); /* another order in the next epoch */
    lt_loader *other = make_loader(dataset, settings);
    for (uint64_t i = 0; i < 300; i++) {
        uint64_t to = lt_random_below(1, 5, i, BATCHES - 3);
        assert_int_equal(lt_loader_seek(other, positions[to], NULL), LT_OK);
        for (uint64_t k = 0; k < i % 4; k++) {
            assert_int_equal(lt_loader_tell(other).batch, positions[to + k].batch);
            lt_batch batch = next(other);
            assert_true(digest(&batch) == digests[to + k]);
        }
    }
    lt_err err = {0};
    assert_int_equal(lt_loader_seek(other, (lt_loader_position){0, per_epoch}, &err),
                     LT_ERR_FORMAT);
    assert_int_equal(lt_loader_seek(other, (lt_loader_position){-1, 0}, &err), LT_ERR_FORMAT);
    lt_loader_free(other);
    lt_loader_free(loader);
    lt_dataset_close(dataset);
}

/* One document, looked at cell by cell. */
static void a_row_in_detail(void **state)
{
    (void)state;
    lt_dataset *dataset = make_dataset(2, 5, LT_FORMAT_DOLLY);
    lt_split_data *split = &dataset->splits[LT_SPLIT_TRAIN];
    split->offsets[1] = 3;
    split->offsets[2] = 5;
    const int32_t tokens[] = {10, 11, 12, 20, 21};
    const uint8_t mask[] = {1, 0, 1, 0, 1};
    free(split->tokens);
    free(split->mask);
    split->tokens = memcpy(malloc(sizeof tokens), tokens, sizeof tokens);
    split->mask = memcpy(malloc(sizeof mask), mask, sizeof mask);
    lt_loader *loader =
        make_loader(dataset, (lt_loader_settings){.rows = 2, .max_length = 6, .packing = true});
    lt_batch batch = next(loader);
    const int32_t input[] = {10, 11, 12, 20, 21, 0};
    const int32_t target[] = {LT_IGNORE, 12, LT_IGNORE, 21, LT_IGNORE, LT_IGNORE};
    const int32_t position[] = {0, 1, 2, 0, 1, 0};
    const int32_t first[] = {0, 0, 0, 3, 3, 5};
    assert_int_equal(batch.rows, 1);
    assert_int_equal(batch.length, 6); /* never beyond max_length */
    assert_memory_equal(batch.input_ids, input, sizeof input);
    assert_memory_equal(batch.targets, target, sizeof target);
    assert_memory_equal(batch.positions, position, sizeof position);
    assert_memory_equal(batch.first_key, first, sizeof first);
    assert_int_equal(batch.trained_tokens, 2);
    lt_loader_free(loader);

    /* Too long for the row, and nothing to learn: counted, not lost. */
    split->mask[4] = 0;
    loader = make_loader(dataset, (lt_loader_settings){.rows = 2, .max_length = 6});
    assert_int_equal(lt_loader_left_out(loader), 1);
    lt_loader_free(loader);
    lt_loader *none = NULL;
    lt_err err = {0};
    lt_loader_settings short_rows = {.rows = 2, .max_length = 2};
    assert_int_equal(lt_loader_create(dataset, &short_rows, &none, &err), LT_ERR_USAGE);
    assert_non_null(strstr(err.message, "none of the 2 training documents fits in 2 tokens"));
    lt_loader_settings empty = {.rows = 2, .max_length = 8, .split = LT_SPLIT_VALIDATION};
    assert_int_equal(lt_loader_create(dataset, &empty, &none, &err), LT_ERR_USAGE);
    assert_non_null(strstr(err.message, "no validation documents"));
    lt_dataset_close(dataset);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_row_in_detail),
        cmocka_unit_test(packed_and_unpacked_teach_the_same),
        cmocka_unit_test(text_is_cut_into_windows),
        cmocka_unit_test(ranks_share_the_rows),
        cmocka_unit_test(ranks_take_turns_at_the_same_batches),
        cmocka_unit_test(ranks_without_rows_get_empty_batches),
        cmocka_unit_test(seeking_gives_the_same_batches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
