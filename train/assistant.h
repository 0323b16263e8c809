/* A model directory opened for answering: model, tokenizer and template together.
 *
 * This is where text meets the model: prompts are rendered by the template the model was trained
 * with (lathe.json in its directory), else by its tokenizer's chat template; answers are decoded as
 * they come and end at the stop token or a stop text, neither of which is shown. */
#ifndef LT_TRAIN_ASSISTANT_H
#define LT_TRAIN_ASSISTANT_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "data_pipeline/data_pipeline.h"
#include "model/adapter.h"

/* --- lathe.json: what a model directory knows of its training --------------------------------- */

typedef struct lt_model_notes {
    bool has_template;
    lt_template template_;
    int64_t max_length; /* 0: not recorded */
} lt_model_notes;

/* A directory without lathe.json gives a zeroed *out. */
lt_status lt_model_notes_load(const char *directory, lt_model_notes *out, lt_err *err);
lt_status lt_model_notes_save(const lt_model_notes *notes, const char *directory, lt_err *err);

/* --- Answering -------------------------------------------------------------------------------- */

typedef struct lt_assistant {
    lt_model *model;               /* owned when opened by lt_assistant_open, else borrowed */
    const lt_tokenizer *tokenizer; /* `owned_tokenizer` or borrowed */
    lt_tokenizer *owned_tokenizer;
    lt_encoder *encoder;     /* owned */
    lt_model_notes notes;    /* without a template of its own: the tokenizer's chat template */
    bool untrained_template; /* that is so: raw prompts have nothing to do with it */
    bool owns_model;
} lt_assistant;

/* An adapter to be opened with a model: a PEFT directory, and what it is called. */
typedef struct lt_adapter_source {
    const char *name, *directory;
} lt_adapter_source;

/* LT_ERR_USAGE when tokenizer and model do not match (more tokens than the model has rows).
 * Tokenizer and template are an adapter's own where its directory has them. */
lt_status lt_assistant_open(const char *directory, const lt_adapter_source *adapters,
                            int64_t adapter_count, const lt_backend *backend, lt_assistant *out,
                            lt_err *err);
/* Around a model in training. */
lt_status lt_assistant_wrap(lt_model *model, const lt_tokenizer *tokenizer,
                            const lt_model_notes *notes, lt_assistant *out, lt_err *err);
/* From now on the assistant reads and writes as the dataset does: its tokenizer, its template. A
 * model made before the dataset's special tokens were added grows rows for them, untrained.
 * LT_ERR_USAGE when the dataset's tokenizer is not the model's with tokens added. The dataset
 * outlives the assistant. */
lt_status lt_assistant_use_dataset(lt_assistant *assistant, const lt_dataset *dataset, lt_err *err);
void lt_assistant_close(lt_assistant *assistant);

/* Exactly one of the first three. */
typedef struct lt_prompt {
    const char *text;                  /* a raw prompt, tokenised as Hugging Face does and continued
                                          as it is; or */
    const char *instruction, *context; /* rendered by the template; context may be NULL; or */
    const lt_record *record;           /* rendered by the template, its answer left out */
    const lt_adapter *adapter;         /* of the model, or NULL: the model as it is */
} lt_prompt;

typedef struct lt_answer_settings {
    int64_t max_new_tokens; /* 0: as many as fit */
    lt_sampling sampling;
    const char *const *stop_texts;
    int64_t stop_text_count;
    int64_t max_rows;    /* prompts answered side by side; 0: 8 */
    int64_t first_index; /* the number of prompts[0] when a long list is answered piece by piece:
                            sampling draws by it */
    const volatile sig_atomic_t *cancelled; /* may be NULL; not 0: end at the next token, with
                                               LT_ERR_INTERRUPTED and the answers so far */
} lt_answer_settings;

typedef enum lt_finish { LT_FINISH_LENGTH, LT_FINISH_STOP } lt_finish;

typedef struct lt_answer {
    lt_buffer text; /* owned: lt_buffer_free. White space at the end of an answer to an instruction
                       is the template's, and left out */
    lt_ids ids;     /* new ids, stop id included; owned */
    int64_t prompt_tokens;
    lt_finish finish;
} lt_answer;

/* Text of prompt `index` as it appears: whole characters, never any that may yet become a stop
 * text. */
typedef void (*lt_on_text)(void *context, int64_t index, const char *text, size_t size);

/* `answers`: [count], zeroed; filled, also in part when it fails. on_text may be NULL. An empty
 * prompt is LT_ERR_USAGE, one that leaves no room for an answer LT_ERR_LIMIT. */
lt_status lt_assistant_answer(lt_assistant *assistant, const lt_prompt *prompts, int64_t count,
                              const lt_answer_settings *settings, lt_on_text on_text, void *context,
                              lt_answer *answers, lt_err *err);
void lt_answer_free(lt_answer *answer);

#endif
