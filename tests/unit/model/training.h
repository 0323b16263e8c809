/* Small batches and settings for the tests of the backward pass. */
#ifndef LT_TEST_TRAINING_H
#define LT_TEST_TRAINING_H

#include "golden.h"

enum { ROWS = 2, LENGTH = 11, SECOND = 6 };

static const lt_dropout_mask dropout_key = {.seed = 5, .stream = 77};

static UNUSED lt_workspace_settings training(double dropout, lt_recompute recompute)
{
    return (lt_workspace_settings){.rows = ROWS,
                                   .length = LENGTH,
                                   .training = true,
                                   .recompute = recompute,
                                   .embd_pdrop = dropout,
                                   .resid_pdrop = dropout,
                                   .attn_pdrop = dropout,
                                   .head_chunk = 4};
}

/* A second document begins in every row at SECOND. */
static UNUSED test_batch packed_batch(const lt_model *model, int64_t rows, uint64_t seed)
{
    test_batch b = random_batch(rows, LENGTH, model->config.vocab_size, seed);
    split_rows(&b, SECOND);
    return b;
}

/* Training drops, by masks that the key chooses; evaluating does not. `plain`: the loss without. */
static UNUSED void check_dropout(lt_model *model, const lt_workspace_settings *settings,
                                 const lt_batch *batch, double plain)
{
    const lt_dropout_mask other_key = {.seed = dropout_key.seed, .stream = dropout_key.stream + 1};
    double first = run_backward(model, settings, batch, dropout_key);
    double again = run_backward(model, settings, batch, dropout_key);
    double other = run_backward(model, settings, batch, other_key);
    assert_true(first == again && first != other && first != plain);
    lt_loss loss = {0};
    lt_workspace *w = new_workspace(model, settings);
    OK(lt_model_evaluate(model, w, batch, &loss, NULL, err));
    assert_true(fabs(loss.sum - plain) <= 1e-5 * plain);
    lt_workspace_free(w);
}

#endif
