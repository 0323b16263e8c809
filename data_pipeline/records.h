/* Instruction records and the templates that turn them into text with a loss mask.
 *
 * A file is read as a stream of records (JSONL, one JSON array, or plain text; .gz and .zst are
 * opened on the fly). A template turns a record into segments: pieces of text that are trained on
 * or not, and special tokens. Ids and mask come from the segments, never from searching ids, so
 * user text can not become a special token nor move the mask. */
#ifndef LT_DATA_PIPELINE_RECORDS_H
#define LT_DATA_PIPELINE_RECORDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "data_pipeline/tokenizer.h"

/* --- Records
 * ---------------------------------------------------------------------------------------- */

typedef enum lt_record_format {
    LT_FORMAT_AUTO,       /* decided by the first record's keys */
    LT_FORMAT_DOLLY,      /* instruction, context, response, category */
    LT_FORMAT_ALPACA,     /* instruction, input, output, system? */
    LT_FORMAT_MESSAGES,   /* messages: [{role, content}] */
    LT_FORMAT_SHAREGPT,   /* conversations: [{from, value}] */
    LT_FORMAT_COMPLETION, /* prompt, completion */
    LT_FORMAT_TEXT,       /* {"text": ...} records, or whole files of plain text */
} lt_record_format;

const char *lt_record_format_name(lt_record_format format);
lt_status lt_record_format_parse(const char *name, lt_record_format *out, lt_err *err);

typedef enum lt_role { LT_ROLE_SYSTEM, LT_ROLE_USER, LT_ROLE_ASSISTANT, LT_ROLE_TOOL } lt_role;

typedef struct lt_message {
    lt_role role;
    const char *content; /* UTF-8, borrowed from the record's JSON; may hold any text but NUL */
    const json_t *json;  /* the whole of it, borrowed too */
} lt_message;

/* One record in the one form that all formats are read into. */
typedef struct lt_record {
    lt_record_format format;                      /* never AUTO */
    const char *instruction, *context, *response; /* single-turn formats; context may be "" */
    const char *system;                           /* or NULL */
    const char *category;                         /* or NULL */
    lt_message *messages;                         /* multi-turn formats; owned */
    size_t message_count;
    const json_t *tools; /* LT_FORMAT_MESSAGES: what chat templates list as callable, or NULL */
    const char *text;    /* LT_FORMAT_TEXT */
    bool whole_file;     /* LT_FORMAT_TEXT: `text` is a plain-text file from beginning to end */
    json_t *json;        /* owns the strings */
    char where[512];     /* "file.jsonl:17" */
} lt_record;

void lt_record_free(lt_record *record);

/* Reads one JSON object as a record, by the same rules as the reader below; takes a reference of
 * its own to `json`. `format` AUTO decides by the keys. `where` starts every message. */
lt_status lt_record_from_json(json_t *json, lt_record_format format, const char *where,
                              lt_record *out, lt_err *err);

/* What the model should answer: the response, or the content of the last assistant message. NULL
 * for text. Borrowed from the record. */
const char *lt_record_answer(const lt_record *record);

typedef struct lt_record_reader lt_record_reader;

/* columns: "instruction=question,response=answer": the file's key `question` is read as the
 * format's `instruction`; or NULL. Compression is recognised by content. A file whose name ends in
 * .txt or .md is one record of plain text, as is any file but .json and .jsonl when the format is
 * LT_FORMAT_TEXT. */
lt_status lt_record_reader_open(const char *path, lt_record_format format, const char *columns,
                                lt_record_reader **out, lt_err *err);
/* *more is false at the end. A malformed line, missing field, empty instruction or response,
 * invalid UTF-8 is LT_ERR_FORMAT naming file and line. */
lt_status lt_record_reader_next(lt_record_reader *reader, lt_record *out, bool *more, lt_err *err);
/* The format of the records: AUTO until the first one was read. */
lt_record_format lt_record_reader_format(const lt_record_reader *reader);
/* From now on records without an answer are fine too: files of prompts. */
void lt_record_reader_allow_prompts(lt_record_reader *reader);
void lt_record_reader_close(lt_record_reader *reader);

/* --- Templates
 * ---------------------------------------------------------------------------------------- */

typedef enum lt_template {
    LT_TEMPLATE_DOLLY,
    LT_TEMPLATE_ALPACA,
    LT_TEMPLATE_CHATML,
    LT_TEMPLATE_PLAIN, /* prompt and completion with nothing between them; also plain text */
    LT_TEMPLATE_CHAT,  /* the tokenizer's own chat template (chat_template.h) */
} lt_template;

const char *lt_template_name(lt_template template_);
lt_status lt_template_parse(const char *name, lt_template *out, lt_err *err);
lt_template lt_template_default(lt_record_format format);

/* The special tokens a template needs in the tokenizer, in the order of their ids; NULL-terminated,
 * maybe empty. */
const char *const *lt_template_special_tokens(lt_template template_);
/* The token that ends an answer: "### End", "<|im_end|>", the one that the chat template writes
 * behind it, else the tokenizer's eos; -1: there is none. */
int32_t lt_template_stop_id(lt_template template_, const lt_tokenizer *tokenizer);

/* Appends ids and mask (1: the loss counts this token) of a record, ended by the template's stop
 * token. Text between special tokens and mask edges is joined before it is encoded. Ids that the
 * tokenizer's post-processor puts in front (BOS) come first. LT_ERR_FORMAT when the record does not
 * suit the template or no token of it would be trained. */
lt_status lt_template_encode(lt_template template_, lt_encoder *encoder,
                             const lt_tokenizer *tokenizer, const lt_record *record, lt_ids *ids,
                             lt_buffer *mask, lt_err *err);

/* The prompt of a record without its answer, up to where the model takes over: what generation
 * feeds. record->response is not looked at, nor is the last message when it is the assistant's, so
 * a held-out record gives its own prompt. */
lt_status lt_template_encode_prompt(lt_template template_, lt_encoder *encoder,
                                    const lt_tokenizer *tokenizer, const lt_record *record,
                                    lt_ids *ids, lt_err *err);

/* The template in Jinja, for serving: the same ids, for a tokenizer that puts nothing in front of a
 * text. A question's context has to be part of its message. NULL for chat. */
const char *lt_template_jinja(lt_template template_);
/* Appends the chat template that serves a model with this template and tokenizer: the same with the
 * tokens that the tokenizer puts in front (BOS); for chat the tokenizer's own. */
lt_status lt_template_to_jinja(lt_template template_, const lt_tokenizer *tokenizer, lt_buffer *out,
                               lt_err *err);

/* The whole record as text, for inspection and tests: what a reader would see, special tokens
 * spelled out. */
lt_status lt_template_render(lt_template template_, const lt_tokenizer *tokenizer,
                             const lt_record *record, lt_buffer *out, lt_err *err);

#endif
