/* Batches: rows of the plan, in the order of the epoch, filled in by a background thread.
 *
 * A batch is a pure function of (dataset, settings, epoch, batch number). So there is no state but
 * the position: the thread works out the batch after the one that was given out, and a seek throws
 * that away. One batch is under way at a time, in the buffer that the caller does not hold. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "data_pipeline/packing.h"

enum { ALIGN_LENGTH = 8 };

/* One batch's memory. */
typedef struct slot {
    int32_t *input_ids, *targets, *positions, *first_key; /* [rows, max_length] each; one block */
    lt_batch batch;
    lt_loader_position position;
} slot;

struct lt_loader {
    const lt_dataset *dataset;
    lt_loader_settings settings;
    lt_row_plan plan;
    int64_t batches_per_epoch;
    int64_t *epoch_order; /* [row_count]: rows in the order of epoch `ordered_epoch` */
    int64_t ordered_epoch;
    slot slots[2];
    int given_out;               /* the slot that the caller holds */
    lt_loader_position position; /* of the next batch */

    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool has_thread;
    bool quit;
    slot *job;    /* the slot to fill, NULL when the thread has nothing to do */
    slot *filled; /* the slot that holds a batch nobody has taken, or NULL */
};

/* --- Filling in --- */

/* Puts a piece into row cells [at, at + length) and returns how many of its tokens are targets. */
static int64_t fill_piece(const lt_loader *loader, const lt_piece *piece, slot *s, int64_t row,
                          int64_t at)
{
    lt_document document =
        lt_dataset_document(loader->dataset, loader->settings.split, piece->document);
    int64_t first = row * s->batch.length, trained = 0;
    for (int64_t i = 0; i < piece->length; i++) {
        int64_t cell = first + at + i, next = piece->start + i + 1;
        bool is_target = next < document.length && document.mask[next];
        s->input_ids[cell] = document.tokens[next - 1];
        s->targets[cell] = is_target ? document.tokens[next] : LT_IGNORE;
        s->positions[cell] = (int32_t)i;
        s->first_key[cell] = (int32_t)at;
        trained += is_target;
    }
    return trained;
}

/* Padding: a token that sees itself alone and is never a target. */
static void fill_padding(slot *s, int64_t row, int64_t at, int32_t pad)
{
    for (; at < s->batch.length; at++) {
        int64_t cell = row * s->batch.length + at;
        s->input_ids[cell] = pad;
        s->targets[cell] = LT_IGNORE;
        s->positions[cell] = 0;
        s->first_key[cell] = (int32_t)at;
    }
}

static int64_t row_length(const lt_row_plan *plan, int64_t row)
{
    int64_t length = 0;
    for (int64_t i = plan->row_begin[row]; i < plan->row_begin[row + 1]; i++)
        length += plan->pieces[plan->order[i]].length;
    return length;
}

static void order_epoch(lt_loader *loader, int64_t epoch)
{
    if (loader->ordered_epoch == epoch) return;
    if (loader->settings.shuffle)
        lt_permutation(loader->settings.seed, epoch, loader->plan.row_count, loader->epoch_order);
    loader->ordered_epoch = epoch;
}

/* Row `r` of this rank's `batch` in the epoch, or -1 past its end. */
static int64_t row_at(const lt_loader *loader, int64_t batch, int64_t r)
{
    int64_t batch_of_all = batch * loader->settings.world_size + loader->settings.rank;
    int64_t place = batch_of_all * loader->settings.rows + r;
    return place < loader->plan.row_count ? loader->epoch_order[place] : -1;
}

static void fill_slot(lt_loader *loader, slot *s)
{
    const lt_row_plan *plan = &loader->plan;
    const int64_t batch = s->position.batch;
    int64_t rows = 0, longest = 0;
    order_epoch(loader, s->position.epoch);
    for (int64_t row; rows < loader->settings.rows && (row = row_at(loader, batch, rows)) >= 0;
         rows++)
        longest = lt_max_i64(longest, row_length(plan, row));
    int64_t length = (longest + ALIGN_LENGTH - 1) / ALIGN_LENGTH * ALIGN_LENGTH;
    s->batch = (lt_batch){
        .rows = rows,
        .length = lt_min_i64(length, loader->settings.max_length),
        .input_ids = s->input_ids,
        .targets = s->targets,
        .positions = s->positions,
        .first_key = s->first_key,
    };
    const lt_tokenizer *tokenizer = lt_dataset_tokenizer(loader->dataset);
    int32_t pad = tokenizer ? lt_tokenizer_pad_id(tokenizer) : -1;
    for (int64_t r = 0; r < rows; r++) {
        int64_t row = row_at(loader, batch, r), at = 0;
        for (int64_t i = plan->row_begin[row]; i < plan->row_begin[row + 1]; i++) {
            const lt_piece *piece = &plan->pieces[plan->order[i]];
            s->batch.trained_tokens += fill_piece(loader, piece, s, r, at);
            at += piece->length;
        }
        fill_padding(s, r, at, pad >= 0 ? pad : 0);
    }
}

/* --- The background thread --- */

static void *prefetch(void *context)
{
    lt_loader *loader = context;
    pthread_mutex_lock(&loader->mutex);
    while (!loader->quit) {
        slot *job = loader->job;
        if (!job) {
            pthread_cond_wait(&loader->changed, &loader->mutex);
            continue;
        }
        pthread_mutex_unlock(&loader->mutex);
        fill_slot(loader, job);
        pthread_mutex_lock(&loader->mutex);
        loader->job = NULL;
        loader->filled = job;
        pthread_cond_broadcast(&loader->changed);
    }
    pthread_mutex_unlock(&loader->mutex);
    return NULL;
}

/* Both with the mutex held. */

static void wait_until_idle(lt_loader *loader)
{
    while (loader->job)
        pthread_cond_wait(&loader->changed, &loader->mutex);
}

/* Has the batch at loader->position worked out, in the slot that the caller does not hold. */
static void start_job(lt_loader *loader)
{
    slot *s = &loader->slots[!loader->given_out];
    s->position = loader->position;
    loader->filled = NULL;
    loader->job = s;
    pthread_cond_broadcast(&loader->changed);
}

/* --- Life --- */

static lt_status check_settings(const lt_loader_settings *s, lt_err *err)
{
    if (s->rows < 1 || s->rows > INT32_MAX)
        return lt_fail(err, LT_ERR_USAGE, "the micro-batch size is %lld; it must be at least 1",
                       (long long)s->rows);
    if (s->max_length < 2 || s->max_length > INT32_MAX)
        return lt_fail(err, LT_ERR_USAGE,
                       "the maximum length is %lld; it must be at least 2, to predict one token "
                       "from another",
                       (long long)s->max_length);
    if (s->world_size < 0 || s->rank < 0 || (s->rank > 0 && s->rank >= s->world_size))
        return lt_fail(err, LT_ERR_USAGE, "rank %lld of %lld processes does not exist",
                       (long long)s->rank, (long long)s->world_size);
    return LT_OK;
}

static lt_status check_plan(const lt_loader *loader, lt_err *err)
{
    const char *split = loader->settings.split == LT_SPLIT_TRAIN ? "training" : "validation";
    if (loader->plan.row_count > 0) return LT_OK;
    if (lt_dataset_count(loader->dataset, loader->settings.split) == 0)
        return lt_fail(err, LT_ERR_USAGE, "the dataset has no %s documents", split);
    return lt_fail(err, LT_ERR_USAGE,
                   "none of the %lld %s documents fits in %lld tokens; give a larger maximum "
                   "length",
                   (long long)loader->plan.left_out, split, (long long)loader->settings.max_length);
}

static lt_status allocate_slot(const lt_loader_settings *settings, slot *s, lt_err *err)
{
    size_t cells, bytes;
    if (!lt_mul_size((size_t)settings->rows, (size_t)settings->max_length, &cells) ||
        !lt_mul_size(cells, 4 * sizeof(int32_t), &bytes) || !(s->input_ids = malloc(bytes)))
        return lt_fail(err, LT_ERR_NOMEM,
                       "no memory for a micro-batch of %lld rows of %lld tokens; make it smaller",
                       (long long)settings->rows, (long long)settings->max_length);
    s->targets = s->input_ids + cells;
    s->positions = s->targets + cells;
    s->first_key = s->positions + cells;
    return LT_OK;
}

static lt_status allocate(lt_loader *loader, lt_err *err)
{
    int64_t rows = loader->plan.row_count;
    loader->epoch_order = calloc((size_t)rows, sizeof *loader->epoch_order);
    if (!loader->epoch_order)
        return lt_fail_nomem(err, (unsigned long long)rows * sizeof(int64_t), "the epoch's order");
    for (int64_t i = 0; i < rows; i++)
        loader->epoch_order[i] = i;
    loader->ordered_epoch = -1;
    LT_TRY(allocate_slot(&loader->settings, &loader->slots[0], err));
    return allocate_slot(&loader->settings, &loader->slots[1], err);
}

static lt_status start_thread(lt_loader *loader, lt_err *err)
{
    pthread_mutex_init(&loader->mutex, NULL);
    pthread_cond_init(&loader->changed, NULL);
    int code = pthread_create(&loader->thread, NULL, prefetch, loader);
    if (code != 0) {
        pthread_cond_destroy(&loader->changed);
        pthread_mutex_destroy(&loader->mutex);
        return lt_fail(err, LT_ERR_IO, "the loader's thread can not be started: %s",
                       strerror(code));
    }
    loader->has_thread = true;
    return LT_OK;
}

lt_status lt_loader_create(const lt_dataset *dataset, const lt_loader_settings *settings,
                           lt_loader **out, lt_err *err)
{
    LT_TRY(check_settings(settings, err));
    lt_loader *loader = calloc(1, sizeof *loader);
    if (!loader) return lt_fail_nomem(err, sizeof *loader, "a loader");
    loader->dataset = dataset;
    loader->settings = *settings;
    if (loader->settings.world_size == 0) loader->settings.world_size = 1;
    lt_status status;
    LT_TRY_GOTO(status, lt_row_plan_make(dataset, &loader->settings, &loader->plan, err), done);
    LT_TRY_GOTO(status, check_plan(loader, err), done);
    LT_TRY_GOTO(status, allocate(loader, err), done);
    int64_t world = loader->settings.world_size;
    int64_t per_rank = (loader->plan.row_count + world - 1) / world;
    loader->batches_per_epoch = (per_rank - 1) / settings->rows + 1;
    LT_TRY_GOTO(status, start_thread(loader, err), done);
    pthread_mutex_lock(&loader->mutex);
    start_job(loader);
    pthread_mutex_unlock(&loader->mutex);
done:
    if (status != LT_OK) {
        lt_loader_free(loader);
        return status;
    }
    *out = loader;
    return LT_OK;
}

void lt_loader_free(lt_loader *loader)
{
    if (!loader) return;
    if (loader->has_thread) {
        pthread_mutex_lock(&loader->mutex);
        loader->quit = true;
        pthread_cond_broadcast(&loader->changed);
        pthread_mutex_unlock(&loader->mutex);
        pthread_join(loader->thread, NULL);
        pthread_cond_destroy(&loader->changed);
        pthread_mutex_destroy(&loader->mutex);
    }
    free(loader->slots[1].input_ids);
    free(loader->slots[0].input_ids);
    free(loader->epoch_order);
    lt_row_plan_free(&loader->plan);
    free(loader);
}

/* --- Use --- */

lt_status lt_loader_next(lt_loader *loader, lt_batch *out, lt_err *err)
{
    if (loader->position.epoch == INT64_MAX)
        return lt_fail(err, LT_ERR_LIMIT, "there is no epoch after %lld",
                       (long long)loader->position.epoch);
    pthread_mutex_lock(&loader->mutex);
    wait_until_idle(loader);
    loader->given_out = (int)(loader->filled - loader->slots);
    *out = loader->filled->batch;
    if (++loader->position.batch == loader->batches_per_epoch)
        loader->position = (lt_loader_position){loader->position.epoch + 1, 0};
    start_job(loader);
    pthread_mutex_unlock(&loader->mutex);
    return LT_OK;
}

lt_status lt_loader_seek(lt_loader *loader, lt_loader_position position, lt_err *err)
{
    if (position.epoch < 0 || position.epoch == INT64_MAX || position.batch < 0 ||
        position.batch >= loader->batches_per_epoch)
        return lt_fail(err, LT_ERR_FORMAT,
                       "the data position is epoch %lld, batch %lld; an epoch has %lld batches: it "
                       "comes from another dataset or other batch settings",
                       (long long)position.epoch, (long long)position.batch,
                       (long long)loader->batches_per_epoch);
    pthread_mutex_lock(&loader->mutex);
    wait_until_idle(loader);
    loader->position = position;
    start_job(loader);
    pthread_mutex_unlock(&loader->mutex);
    return LT_OK;
}

lt_loader_position lt_loader_tell(const lt_loader *loader)
{
    return loader->position;
}

int64_t lt_loader_batches_per_epoch(const lt_loader *loader)
{
    return loader->batches_per_epoch;
}

int64_t lt_loader_rows_per_epoch(const lt_loader *loader)
{
    return loader->plan.row_count;
}

int64_t lt_loader_left_out(const lt_loader *loader)
{
    return loader->plan.left_out;
}
