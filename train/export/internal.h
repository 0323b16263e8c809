/* What the export formats share. Private to train/export/. */
#ifndef LT_TRAIN_EXPORT_INTERNAL_H
#define LT_TRAIN_EXPORT_INTERNAL_H

#include "base/fsio.h"
#include "train/export.h"

typedef struct lt_export_job {
    lt_opened_model *opened;
    const lt_backend *backend;
    const lt_export_settings *settings;
    lt_export_report *report;
    lt_logit_probe before; /* with `verify`: the source's */
} lt_export_job;

/* One for each format; the adapter is merged by now, where it is to be. */
lt_status lt_export_hf(lt_export_job *job, lt_err *err);
lt_status lt_export_peft(lt_export_job *job, lt_err *err);
lt_status lt_export_gguf(lt_export_job *job, lt_err *err);

/* LT_ERR_INTERRUPTED when somebody asked for it: called between files. */
lt_status lt_export_go_on(const lt_export_job *job, lt_err *err);
/* LT_ERR_IO with both numbers unless the target's file system has room for `weights` bytes and the
 * small files beside them. */
lt_status lt_export_check_space(const lt_export_job *job, uint64_t weights, lt_err *err);

/* Compares with what was probed before, and puts the differences into the report. */
lt_status lt_export_compare(lt_export_job *job, const lt_model *model, double bound, lt_err *err);
/* A tokenizer that was read back has to be the one that was written. Frees `again`. */
lt_status lt_export_compare_tokenizer(const lt_export_job *job, lt_tokenizer *again, lt_err *err);

/* Appends the Jinja template that a server has to use: of the template that was trained with, else
 * the tokenizer's own; of `plain`, which plain text is trained with too, only when there is no own
 * one. Nothing: there is none. */
lt_status lt_export_chat_template(const lt_opened_model *opened, lt_buffer *out, lt_err *err);
/* Tokenizer, chat template, lathe.json and README.md. */
lt_status lt_export_write_texts(lt_export_job *job, const char *directory, lt_err *err);
/* Licences, and the files of other tokenizers than Lathe's, as they are. */
lt_status lt_export_copy_files(const lt_export_job *job, const char *directory, lt_err *err);
/* Adds files and bytes below `path` to the report. */
lt_status lt_export_count(lt_export_job *job, const char *path, lt_err *err);

#endif
