/* The files around the weights: tokenizer, chat template, lathe.json, model card, and what is
 * carried from the source as it is. */
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "train/export/internal.h"

/* --- Written ---------------------------------------------------------------------------------- */

static lt_status write_text(const char *directory, const char *name, const char *text, size_t size,
                            lt_err *err)
{
    lt_buffer path = {0};
    lt_status status = lt_path_join(&path, directory, name, err);
    if (status == LT_OK) status = lt_write_file(path.data, text, size, err);
    lt_buffer_free(&path);
    return status;
}

/* chat_template.jinja wins over a template in tokenizer_config.json. */
static lt_status write_chat_template(lt_export_job *job, const char *directory, lt_err *err)
{
    const lt_opened_model *opened = job->opened;
    const char *own = lt_tokenizer_chat_template(opened->tokenizer);
    lt_buffer text = {0};
    lt_status status = lt_export_chat_template(opened, &text, err);
    if (status == LT_OK && own && strcmp(own, lt_buffer_text(&text)) != 0)
        status = lt_buffer_printf(&job->report->notes, err,
                                  "the chat template is that of the training (%s), not the one "
                                  "that the tokenizer came with\n",
                                  lt_template_name(opened->notes.template_));
    if (status == LT_OK && text.size > 0)
        status = write_text(directory, "chat_template.jinja", text.data, text.size, err);
    lt_buffer_free(&text);
    return status;
}

static lt_status write_card(lt_export_job *job, const char *directory, lt_err *err)
{
    lt_buffer card = {0};
    lt_status status = lt_model_card(job->opened, job->settings, &job->report->notes, &card, err);
    if (status == LT_OK) status = write_text(directory, "README.md", card.data, card.size, err);
    lt_buffer_free(&card);
    return status;
}

lt_status lt_export_write_texts(lt_export_job *job, const char *directory, lt_err *err)
{
    const lt_opened_model *opened = job->opened;
    if (opened->tokenizer) {
        LT_TRY(lt_tokenizer_save(opened->tokenizer, directory, err));
        LT_TRY(write_chat_template(job, directory, err));
    }
    if (opened->notes.has_template) LT_TRY(lt_model_notes_save(&opened->notes, directory, err));
    return write_card(job, directory, err);
}

/* --- Carried ---------------------------------------------------------------------------------- */

static bool is_licence(const char *name)
{
    static const char *const starts[] = {"LICENSE", "LICENCE", "NOTICE", "COPYING", "USE_POLICY"};
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++)
        if (strncasecmp(name, starts[i], strlen(starts[i])) == 0) return true;
    return false;
}

/* Other programs read these where Lathe reads tokenizer.json; added tokens are not in them. */
static bool is_vocabulary(const char *name)
{
    static const char *const names[] = {"vocab.json", "merges.txt", "tokenizer.model",
                                        "added_tokens.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) return true;
    return false;
}

static lt_status copy_file(const char *from_directory, const char *name, const char *directory,
                           lt_err *err)
{
    lt_buffer from = {0}, to = {0};
    struct stat info;
    lt_status status = lt_path_join(&from, from_directory, name, err);
    if (status == LT_OK) status = lt_path_join(&to, directory, name, err);
    if (status == LT_OK && stat(from.data, &info) == 0 && S_ISREG(info.st_mode))
        status = lt_copy_file(from.data, to.data, err);
    lt_buffer_free(&from);
    lt_buffer_free(&to);
    return status;
}

lt_status lt_export_copy_files(const lt_export_job *job, const char *directory, lt_err *err)
{
    const lt_export_settings *s = job->settings;
    bool other = s->adapter_directory && lt_has_tokenizer(s->adapter_directory);
    lt_name_list names = {0};
    if (!lt_is_directory(s->model_directory)) return LT_OK; /* a GGUF file */
    lt_status status = lt_list_directory(s->model_directory, &names, err);
    for (size_t i = 0; i < names.count && status == LT_OK; i++)
        if (is_licence(names.names[i]) || (!other && is_vocabulary(names.names[i])))
            status = copy_file(s->model_directory, names.names[i], directory, err);
    lt_name_list_free(&names);
    return status;
}

/* --- Counted ---------------------------------------------------------------------------------- */

static void count_file(lt_export_job *job, const char *path)
{
    struct stat info;
    if (stat(path, &info) != 0) return;
    job->report->files++;
    job->report->bytes += (uint64_t)info.st_size;
}

lt_status lt_export_count(lt_export_job *job, const char *path, lt_err *err)
{
    lt_name_list names = {0};
    lt_buffer file = {0};
    if (!lt_is_directory(path)) return count_file(job, path), LT_OK;
    lt_status status = lt_list_directory(path, &names, err);
    for (size_t i = 0; i < names.count && status == LT_OK; i++) {
        status = lt_path_join(&file, path, names.names[i], err);
        if (status == LT_OK) count_file(job, file.data);
    }
    lt_buffer_free(&file);
    lt_name_list_free(&names);
    return status;
}
