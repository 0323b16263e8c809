/* Published datasets of open answers and of running text: LAMBADA, GSM8K, TriviaQA, WikiText, as
 * tasks of these names in lm_eval/tasks/ read them. */
#include <stdlib.h>
#include <string.h>

#include "train/evaluation/task_format.h"
#include "train/evaluation/task_text.h"

/* --- LAMBADA --- */

/* The last word, at a space, follows from the rest. */
lt_status lt_read_lambada(const lt_task_record *record, lt_task_question *out, lt_err *err)
{
    const char *text;
    LT_TRY(lt_task_text(record, "text", &text, err));
    const char *space = strrchr(text, ' ');
    int before = space ? (int)(space - text) : 0;
    LT_TRY(lt_text_printf(&out->text, err, "%.*s", before, text));
    return lt_text_printf(&out->target, err, " %s", space ? space + 1 : text);
}

/* --- GSM8K, TriviaQA --- */

static lt_status set_question(const lt_task_record *record, const char *end, lt_task_question *out,
                              lt_err *err)
{
    const char *question;
    LT_TRY(lt_task_text(record, "question", &question, err));
    return lt_text_printf(&out->text, err, "Question: %s%s\nAnswer:", question, end);
}

/* Many files have a question and an answer; the mark tells GSM8K's from them, and without it
 * nothing would ever match. */
lt_status lt_read_gsm8k(const lt_task_record *record, lt_task_question *out, lt_err *err)
{
    LT_TRY(set_question(record, "", out, err));
    LT_TRY(lt_task_text_copy(record, "answer", &out->target, err));
    if (!strstr(out->target, "#### "))
        return lt_fail(
            err, LT_ERR_FORMAT,
            "%s: \"answer\" has no \"#### NUMBER\" as those of GSM8K; a file of your own "
            "has \"prompt\" and \"reference\"",
            record->where);
    out->doc.references = calloc(1, sizeof *out->doc.references);
    if (!out->doc.references) return lt_fail_nomem(err, sizeof(char *), "a reference");
    out->doc.reference_count = 1;
    return lt_copy_text(out->target, &out->doc.references[0], err);
}

lt_status lt_read_triviaqa(const lt_task_record *record, lt_task_question *out, lt_err *err)
{
    LT_TRY(set_question(record, "?", out, err));
    LT_TRY(lt_task_texts(record, "answer.aliases", 1, &out->doc.references,
                         &out->doc.reference_count, err));
    return lt_copy_text(out->doc.references[0], &out->target, err);
}

/* --- WikiText --- */

/* Removes white space next to the brackets, as re.sub(r"\(\s*([^\)]*?)\s*\)", r"(\1)", text). */
static lt_status tighten(lt_buffer *text, char open, char close, lt_err *err)
{
    lt_buffer out = {0};
    lt_status status = LT_OK;
    const char *from = lt_buffer_text(text), *begin, *end;
    while (status == LT_OK && (begin = strchr(from, open)) && (end = strchr(begin + 1, close))) {
        size_t size = 0;
        char *inside = strndup(begin + 1, (size_t)(end - begin - 1));
        if (!inside) status = lt_fail_nomem(err, (size_t)(end - begin), "a task's text");
        const char *stripped = inside ? lt_python_strip(inside, &size) : "";
        if (status == LT_OK) status = lt_buffer_append(&out, from, (size_t)(begin + 1 - from), err);
        if (status == LT_OK) status = lt_buffer_append(&out, stripped, size, err);
        if (status == LT_OK) status = lt_buffer_append(&out, end, 1, err);
        free(inside);
        from = end + 1;
    }
    if (status == LT_OK) status = lt_buffer_append_text(&out, from, err);
    lt_buffer_free(text);
    *text = out;
    return status;
}

/* lm-eval's rule has slashes that were meant as delimiters, so that it only ever finds "/' 5/", and
 * its replacement is no pattern. Both are kept: the text has to be the same. */
static lt_status slashed_digits(lt_buffer *text, lt_err *err)
{
    lt_buffer out = {0};
    lt_status status = LT_OK;
    const char *from = lt_buffer_text(text), *begin = from;
    while (status == LT_OK && (begin = strstr(begin, "/' "))) {
        if (begin[3] >= '0' && begin[3] <= '9' && begin[4] == '/') {
            status = lt_buffer_append(&out, from, (size_t)(begin - from), err);
            if (status == LT_OK) status = lt_buffer_append_text(&out, "/'[0-9]/", err);
            from = begin + 5;
        }
        begin = from > begin ? from : begin + 1;
    }
    if (status == LT_OK) status = lt_buffer_append_text(&out, from, err);
    lt_buffer_free(text);
    *text = out;
    return status;
}

typedef struct replacement {
    const char *what, *by;
} replacement;

static lt_status replace_all(lt_buffer *text, const replacement *list, size_t count, lt_err *err)
{
    for (size_t i = 0; i < count; i++)
        LT_TRY(lt_python_replace(text, list[i].what, list[i].by, err));
    return LT_OK;
}

/* Undoes the tokenisation of the published text (preprocess_wikitext.py). */
static lt_status detokenize(lt_buffer *text, lt_err *err)
{
    static const replacement contractions[] = {{"s '", "s'"}};
    static const replacement separators[] = {{" @-@ ", "-"}, {" @,@ ", ","}, {" @.@ ", "."},
                                             {" : ", ": "},  {" ; ", "; "},  {" . ", ". "},
                                             {" ! ", "! "},  {" ? ", "? "},  {" , ", ", "}};
    static const char pairs[][2] = {{'(', ')'}, {'[', ']'}, {'{', '}'}, {'"', '"'}, {'\'', '\''}};
    static const replacement others[] = {{"= = = =", "===="},    {"= = =", "==="}, {"= =", "=="},
                                         {" \u00B0 ", "\u00B0"}, {" \n", "\n"},    {"\n ", "\n"},
                                         {" N ", " 1 "},         {" 's", "'s"}};
    LT_TRY(replace_all(text, contractions, 1, err));
    LT_TRY(slashed_digits(text, err));
    LT_TRY(replace_all(text, separators, sizeof separators / sizeof *separators, err));
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        LT_TRY(tighten(text, pairs[i][0], pairs[i][1], err));
    return replace_all(text, others, sizeof others / sizeof *others, err);
}

/* Words and bytes are those of the published text, so that results can be compared. */
lt_status lt_read_wikitext(const lt_task_record *record, lt_task_question *out, lt_err *err)
{
    const char *page;
    lt_buffer text = {0};
    LT_TRY(lt_task_text(record, "page", &page, err));
    out->doc.words = (double)lt_python_word_count(page);
    out->doc.bytes = (double)strlen(page);
    lt_status status = lt_buffer_append_text(&text, page, err);
    if (status == LT_OK) status = detokenize(&text, err);
    if (status == LT_OK) status = lt_take_text(&text, &out->target, err);
    lt_buffer_free(&text);
    return status;
}
