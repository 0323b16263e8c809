/* A tiny model and dataset in a directory of their own, and lt_train as a command line would call
 * it. Included by the tests of the trainer, each of which is one program. */
#ifndef LT_TRAIN_FIXTURE_H
#define LT_TRAIN_FIXTURE_H

#include "base/fsio.h"
#include "base/json.h"
#include "train/train.h"
#include "../check.h"

#define FIXTURE_TOKENIZER LATHE_TEST_DIR "/golden/dolly"
enum { FIXTURE_WORDS = 80, FIXTURE_RECORDS = 61 };

static char fixture_directory[64];

/* A path in the fixture's directory; good until called four times more. */
static inline const char *at(const char *format, ...)
{
    static char paths[4][512];
    static int next;
    char *out = paths[next++ % 4];
    int used = snprintf(out, sizeof paths[0], "%s/", fixture_directory);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(out + used, sizeof paths[0] - (size_t)used, format, arguments);
    va_end(arguments);
    return out;
}

/* Answers follow from the questions, so that a small model can learn them. `special_tokens`: in
 * Dolly's template, whose tokens fixture models have no rows for; else in Alpaca's. */
static inline void fixture_data_as(const char *name, int records, bool special_tokens)
{
    static const char *const words[] = {"amber", "birch", "cedar", "dune", "ember"};
    lt_buffer text = {0};
    lt_err err = {0};
    lt_prepare_report report;
    char input[512], output[512];
    for (int i = 0; i < records; i++)
        must(lt_buffer_printf(&text, &err,
                              "{\"instruction\":\"What is next to %s%s?\",\"context\":\"%s\","
                              "\"response\":\"%s\",\"category\":\"open_qa\"}\n",
                              words[i % 5], i % 2 ? " and far" : "", i % 3 ? "" : "In a row.",
                              words[(i + 1) % 5]),
             &err);
    snprintf(input, sizeof input, "%s", at("%s.jsonl", name));
    snprintf(output, sizeof output, "%s", at("%s.h5", name));
    must(lt_write_file(input, text.data, text.size, &err), &err);
    lt_buffer_free(&text);
    char *inputs[] = {input};
    const lt_prepare_settings settings = {.inputs = {inputs, 1},
                                          .tokenizer = FIXTURE_TOKENIZER,
                                          .output = output,
                                          .has_template = !special_tokens,
                                          .template_ = LT_TEMPLATE_ALPACA,
                                          .validation = 0.15,
                                          .seed = 3};
    must(lt_prepare(&settings, &report, &err), &err);
}

static inline void fixture_data(const char *name, int records)
{
    fixture_data_as(name, records, true);
}

static inline lt_backend *fixture_backend(void)
{
    const lt_backend_settings settings = {.threads = 1};
    lt_backend *backend = NULL;
    lt_err err = {0};
    must(lt_backend_create(&settings, &backend, &err), &err);
    return backend;
}

/* A fresh model in directory `name`. `poison` (or NULL) is done to it before it is saved. */
static inline void fixture_model(const char *name, const char *family, uint64_t seed,
                                 void (*poison)(lt_model *))
{
    lt_err err = {0};
    lt_model_config config = {0};
    lt_model *model = NULL;
    lt_tokenizer *tokenizer = NULL;
    lt_backend *backend = fixture_backend();
    must(lt_tokenizer_load(FIXTURE_TOKENIZER, &tokenizer, &err), &err);
    const lt_model_shape shape = {.family = family,
                                  .layers = 3,
                                  .hidden_size = 16,
                                  .heads = 2,
                                  .max_position = 160,
                                  .vocab_size = lt_tokenizer_vocab_size(tokenizer),
                                  .bos_token_id = -1,
                                  .eos_token_id = 0,
                                  .pad_token_id = -1};
    must(lt_model_config_make(&shape, &config, &err), &err);
    must(lt_model_create(&config, backend, seed, &model, &err), &err);
    if (poison) poison(model);
    must(lt_make_directories(at("%s", name), &err), &err);
    must(lt_model_save(model, at("%s", name), LT_F32, &err), &err);
    must(lt_tokenizer_save(tokenizer, at("%s", name), &err), &err);
    lt_model_free(model);
    lt_tokenizer_free(tokenizer);
    lt_backend_free(backend);
}

static inline int fixture_setup(void **state)
{
    (void)state;
    /* in memory where possible: every save waits for the disk, many times */
    const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(fixture_directory, sizeof fixture_directory, "%s/lathe-train-XXXXXX", base);
    if (!mkdtemp(fixture_directory)) return -1;
    fixture_data("data", FIXTURE_RECORDS);
    fixture_model("model", "gpt2", 1, NULL);
    return 0;
}

static inline int fixture_teardown(void **state)
{
    (void)state;
    return lt_remove_tree(fixture_directory, NULL) == LT_OK ? 0 : -1;
}

/* lathe train --model model --data data.h5 --output OUTPUT --threads 1 --eval-samples 0 and
 * `words`, of which later ones win. */
static inline lt_status train(const char *output, const char *words,
                              const lt_train_observer *observer, lt_train_result *result,
                              lt_err *err)
{
    char copy[1024], model[512], data[512], out[512];
    char *argv[FIXTURE_WORDS] = {"--model",   model, "--data",         data, "--output", out,
                                 "--threads", "1",   "--eval-samples", "0"};
    int argc = 10;
    snprintf(model, sizeof model, "%s", at("model"));
    snprintf(data, sizeof data, "%s", at("data.h5"));
    snprintf(out, sizeof out, "%s", at("%s", output));
    snprintf(copy, sizeof copy, "%s", words);
    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    lt_train_settings settings = {0};
    lt_option_result options = {0};
    lt_train_result ignored;
    *err = (lt_err){0};
    lt_status status = lt_options_parse(&lt_train_options, argc, argv, &settings, &options, err);
    if (status == LT_OK)
        status = lt_train(&settings, observer, observer != NULL, result ? result : &ignored, err);
    lt_options_free(&lt_train_options, &settings, &options);
    return status;
}

static inline void train_well(const char *output, const char *words,
                              const lt_train_observer *observer, lt_train_result *result)
{
    lt_err err = {0};
    must(train(output, words, observer, result, &err), &err);
}

static inline void assert_same_file(const char *a, const char *b)
{
    lt_buffer first = {0}, second = {0};
    lt_err err = {0};
    must(lt_read_file(a, 1 << 26, &first, &err), &err);
    must(lt_read_file(b, 1 << 26, &second, &err), &err);
    if (first.size != second.size || memcmp(first.data, second.data, first.size) != 0)
        fail_msg("%s and %s differ", a, b);
    lt_buffer_free(&first);
    lt_buffer_free(&second);
}

static inline void assert_message(const lt_err *err, const char *part)
{
    if (!strstr(err->message, part)) fail_msg("\"%s\" is not in: %s", part, err->message);
}

#endif
