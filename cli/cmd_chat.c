/* lathe chat: a conversation with a model in the terminal, or line by line from a pipe. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/adapters.h"
#include "cli/answering.h"
#include "cli/chat_history.h"
#include "cli/chat_input.h"
#include "cli/cli.h"
#include "cli/common_options.h"
#include "cli/interrupt.h"
#include "train/chat_session.h"

typedef struct chat_settings {
    char *model, *template_, *system, *history;
    int64_t threads;
    lt_cli_answering answering;
    lt_string_list adapter;
    char *device, *dtype, *matmul;
} chat_settings;

#define FIELD(name) offsetof(chat_settings, name)

static const lt_option options[] = {
    LT_MODEL_OPTION(chat_settings, "The model"),
    LT_ADAPTER_OPTION(chat_settings, LT_OPTION_LIST),
    {.name = "template",
     .type = LT_OPTION_CHOICE,
     .offset = FIELD(template_),
     .choices = LT_TEMPLATE_CHOICES,
     .help = "Template of the conversation; by default the one the model was trained with, else "
             "its tokenizer's chat template (chat)."},
    {.name = "system",
     .type = LT_OPTION_STRING,
     .offset = FIELD(system),
     .metavar = "TEXT",
     .help = "System message in front of the conversation."},
    {.name = "history",
     .type = LT_OPTION_CHOICE,
     .offset = FIELD(history),
     .choices = "auto|on|off",
     .default_text = "auto",
     .help =
         "Whether the model sees the messages before the last one. auto: not with the templates "
         "of single questions (dolly, alpaca, plain)."},
    LT_ANSWERING_OPTIONS(chat_settings, answering, "512"),
    LT_THREADS_OPTION(chat_settings, "Machine"),
    LT_DEVICE_OPTION(chat_settings, "auto"),
    LT_DTYPE_OPTION(chat_settings),
    LT_MATMUL_OPTION(chat_settings),
};

static const char commands[] =
    "/reset         forget the conversation, but for the system message\n"
    "/system TEXT   set the system message; without a text take it away\n"
    "/save FILE     write the messages as JSON; /save! replaces a file\n"
    "/load FILE     go on from such messages\n"
    "/help          this list\n"
    "/quit          leave, as Ctrl-D does\n"
    "A line that ends with a backslash goes on in the next one, and so does everything between "
    "two\n"
    "\"\"\". A message may begin with // for a slash. Ctrl-C stops an answer; what was written of "
    "it\n"
    "stays in the conversation.\n";

static const lt_option_table table = {
    .command = "lathe chat",
    .synopsis = "lathe chat --model DIR [--adapter DIR] [--template T] [--system TEXT] [OPTIONS]",
    .description = "Talks with a model. What is typed is a message, or a command that begins with "
                   "a slash (/help lists them). From a pipe each line is a message.\n\n"
                   "Examples:\n"
                   "  lathe chat --model run/final\n"
                   "  lathe chat --model qwen --adapter run/final --temperature 0.7 --system \"Be "
                   "brief.\"\n"
                   "  printf 'Hello?\\nWhat can you do?\\n' | lathe chat --model run/final",
    .options = options,
    .count = sizeof options / sizeof *options,
};

/* --- One answer ------------------------------------------------------------------------------- */

typedef struct conversation {
    const chat_settings *settings;
    lt_chat_session *session;
    lt_chat_history history;
    lt_chat_input input;
    lt_answer_settings answering;
    bool forgetful; /* the model sees the last message only */
    bool failed;    /* a message or command did */
    bool leave;
} conversation;

/* Bytes of the control character at `text`, 0 for any other: below U+0020 but for line feed and
 * tab, and U+007F to U+009F, of which terminals obey some too. */
static size_t control_size(const char *text, size_t size)
{
    unsigned char first = (unsigned char)text[0], second = size > 1 ? (unsigned char)text[1] : 0;
    if (first == 0xC2 && second >= 0x80 && second < 0xA0) return 2;
    return (first < ' ' && first != '\n' && first != '\t') || first == 0x7F;
}

/* What a model writes is not for the terminal to obey: control characters are shown as '?'. Text
 * comes in whole characters. */
static void show_text(void *context, int64_t index, const char *text, size_t size)
{
    const conversation *c = context;
    (void)index;
    for (size_t i = 0; i < size; i++) {
        size_t control = c->input.terminal ? control_size(text + i, size - i) : 0;
        putchar(control > 0 ? '?' : text[i]);
        i += control > 1;
    }
    fflush(stdout);
}

static lt_status take_interrupted(conversation *c, const lt_chat_reply *reply, lt_err *err)
{
    const lt_buffer *text = &reply->answer.text;
    if (!c->input.terminal) return lt_fail(err, LT_ERR_INTERRUPTED, "interrupted");
    if (text->size == 0) {
        lt_chat_history_drop_last(&c->history);
        fputs("(stopped before anything was written; the message is taken back)\n", stderr);
        return LT_OK;
    }
    fputs("(stopped; what was written stays in the conversation)\n", stderr);
    return lt_chat_history_add(&c->history, "assistant", text->data, text->size, err);
}

static lt_status take_answer(conversation *c, const lt_chat_reply *reply, lt_err *err)
{
    const lt_buffer *text = &reply->answer.text;
    if (reply->left_out > 0)
        fprintf(stderr, "(the oldest %lld messages did not fit the model and were left out)\n",
                (long long)reply->left_out);
    if (reply->answer.finish == LT_FINISH_LENGTH)
        fputs("(the answer was cut at the longest allowed; see --max-new-tokens)\n", stderr);
    return lt_chat_history_add(&c->history, "assistant", lt_buffer_text(text), text->size, err);
}

/* What the model sees of the conversation. Caller owns a reference. */
static json_t *seen_messages(const conversation *c)
{
    json_t *all = c->history.messages, *seen;
    size_t count = json_array_size(all);
    if (!c->forgetful || count < 2) return json_incref(all);
    const json_t *role = json_object_get(json_array_get(all, 0), "role");
    seen = json_array();
    if (strcmp(json_string_value(role), "system") == 0)
        json_array_append(seen, json_array_get(all, 0));
    json_array_append(seen, json_array_get(all, count - 1));
    return seen;
}

/* Asks the model. What is wrong with a message, or with the answer to it, does not end the
 * conversation: the message is taken back. */
static lt_status ask(conversation *c, const char *text, size_t size, lt_err *err)
{
    lt_chat_reply reply = {0};
    LT_TRY(lt_chat_history_add(&c->history, "user", text, size, err));
    json_t *seen = seen_messages(c);
    const lt_conversation so_far = {.messages = seen};
    lt_interrupted = 0;
    lt_status status =
        lt_chat_session_answer(c->session, &so_far, &c->answering, show_text, c, &reply, err);
    json_decref(seen);
    if (lt_interrupted) clearerr(stdout); /* Ctrl-C cuts a write short, too */
    if (status == LT_OK || status == LT_ERR_INTERRUPTED) putchar('\n');
    fflush(stdout);
    if (status == LT_OK)
        status = take_answer(c, &reply, err);
    else if (status == LT_ERR_INTERRUPTED)
        status = take_interrupted(c, &reply, err);
    if (status != LT_OK) lt_chat_history_drop_last(&c->history);
    lt_interrupted = 0;
    lt_answer_free(&reply.answer);
    return status;
}

/* --- Commands --------------------------------------------------------------------------------- */

static lt_status run_save(conversation *c, const char *path, bool replace, lt_err *err)
{
    if (!*path) return lt_fail(err, LT_ERR_USAGE, "/save needs the name of a file");
    LT_TRY(lt_chat_history_save(&c->history, path, replace, err));
    fprintf(stderr, "(%zu messages in %s)\n", json_array_size(c->history.messages), path);
    return LT_OK;
}

static lt_status run_load(conversation *c, const char *path, lt_err *err)
{
    if (!*path) return lt_fail(err, LT_ERR_USAGE, "/load needs the name of a file");
    LT_TRY(lt_chat_history_load(&c->history, path, err));
    fprintf(stderr, "(%zu messages from %s)\n", json_array_size(c->history.messages), path);
    return LT_OK;
}

static lt_status run_system(conversation *c, const char *text, lt_err *err)
{
    LT_TRY(lt_chat_history_set_system(&c->history, text, err));
    fputs(*text ? "(system message set)\n" : "(no system message)\n", stderr);
    return LT_OK;
}

static lt_status run_command(conversation *c, const char *text, lt_err *err)
{
    static const char *const names[] = {"/reset", "/system", "/save", "/save!",
                                        "/load",  "/help",   "/quit"};
    enum { RESET, SYSTEM, SAVE, REPLACE, LOAD, HELP, QUIT, COUNT };
    size_t length = strcspn(text, " \t\n");
    const char *rest = text + length + strspn(text + length, " \t\n");
    int which = 0;
    while (which < COUNT &&
           (strlen(names[which]) != length || memcmp(names[which], text, length) != 0))
        which++;
    switch (which) {
    case RESET:
        lt_chat_history_reset(&c->history);
        fputs("(the conversation is forgotten)\n", stderr);
        return LT_OK;
    case SYSTEM:
        return run_system(c, rest, err);
    case SAVE:
    case REPLACE:
        return run_save(c, rest, which == REPLACE, err);
    case LOAD:
        return run_load(c, rest, err);
    case HELP:
        fputs(commands, stderr);
        return LT_OK;
    case QUIT:
        c->leave = true;
        return LT_OK;
    default:
        return lt_fail(err, LT_ERR_USAGE,
                       "'%.*s' is no command; /help lists them. A message that begins with a slash "
                       "is typed with two",
                       (int)length, text);
    }
}

/* --- The conversation ------------------------------------------------------------------------- */

static lt_status take_message(conversation *c, lt_err *err)
{
    const char *text = lt_buffer_text(&c->input.message);
    size_t size = c->input.message.size;
    if (text[strspn(text, " \t\r\n")] == '\0' && strlen(text) == size) return LT_OK;
    if (text[0] != '/') return ask(c, text, size, err);
    return text[1] == '/' ? ask(c, text + 1, size - 1, err) : run_command(c, text, err);
}

static lt_status converse(conversation *c, lt_err *err)
{
    while (!c->leave) {
        lt_input_kind kind;
        LT_TRY(lt_chat_input_read(&c->input, &kind, err));
        if (kind == LT_INPUT_END) break;
        if (kind == LT_INPUT_INTERRUPTED) {
            if (!c->input.terminal) return lt_fail(err, LT_ERR_INTERRUPTED, "interrupted");
            clearerr(stdout);
            fputs("\n(/quit or Ctrl-D leaves)\n", stderr);
            continue;
        }
        if (kind == LT_INPUT_CUT) {
            fputs("(a terminal passes on 4095 bytes of a line and drops the rest, so this message "
                  "is not sent; write it in several lines, or send it through a pipe)\n",
                  stderr);
            continue;
        }
        lt_err problem = {0};
        lt_status status = take_message(c, &problem);
        if (status == LT_ERR_INTERRUPTED) return lt_fail(err, status, "%s", problem.message);
        if (status != LT_OK) {
            lt_cli_fail(status, &problem);
            c->failed = true;
        }
        if (fflush(stdout) != 0 || ferror(stdout))
            return lt_fail(err, LT_ERR_IO, "the answers can not be written to standard output");
    }
    if (c->input.terminal && !c->leave) putchar('\n');
    return LT_OK;
}

static bool is_of_single_questions(lt_template template_)
{
    return template_ == LT_TEMPLATE_DOLLY || template_ == LT_TEMPLATE_ALPACA ||
           template_ == LT_TEMPLATE_PLAIN;
}

static void introduce(const conversation *c, const lt_assistant *assistant)
{
    lt_template template_ = assistant->notes.template_;
    if (c->input.terminal)
        fprintf(stderr, "%s, template %s. /help lists the commands, Ctrl-D leaves.\n",
                c->settings->model, lt_template_name(template_));
    if (c->forgetful)
        fputs("(each message stands alone: the model does not see earlier ones; --history on shows "
              "it all)\n",
              stderr);
}

static lt_status run(const chat_settings *settings, const lt_answer_settings *answering,
                     bool *failed, lt_err *err)
{
    const lt_device_choice machine = LT_DEVICE_CHOICE(settings);
    lt_device_opened device = {0};
    lt_assistant assistant = {0};
    conversation c = {.settings = settings,
                      .input = {.file = stdin, .terminal = isatty(STDIN_FILENO)},
                      .answering = *answering};
    lt_status status;
    if (settings->adapter.count > 1)
        return lt_fail(err, LT_ERR_USAGE, "a conversation is with one --adapter at a time");
    LT_TRY_GOTO(status, lt_device_open(&machine, &device, err), done);
    LT_TRY_GOTO(status,
                lt_cli_open_assistant(settings->model, &settings->adapter, settings->template_,
                                      device.backend, &assistant, err),
                done);
    const lt_model *model = assistant.model;
    const lt_adapter *adapter = model->adapter_count ? model->adapters[0] : NULL;
    LT_TRY_GOTO(status, lt_chat_session_create(&assistant, adapter, &c.session, err), done);
    LT_TRY_GOTO(status, lt_chat_history_start(&c.history, err), done);
    if (settings->system)
        LT_TRY_GOTO(status, lt_chat_history_set_system(&c.history, settings->system, err), done);
    c.forgetful = strcmp(settings->history, "off") == 0 ||
                  (strcmp(settings->history, "auto") == 0 &&
                   is_of_single_questions(assistant.notes.template_));
    introduce(&c, &assistant);
    lt_interrupt_on_ctrl_c();
    status = converse(&c, err);
done:
    *failed = c.failed && !c.input.terminal;
    json_decref(c.history.messages);
    lt_chat_input_free(&c.input);
    lt_chat_session_free(c.session);
    lt_assistant_close(&assistant);
    lt_backend_free(device.backend);
    return status;
}

int lt_cmd_chat(int argc, char **argv)
{
    chat_settings settings = {0};
    lt_option_result given = {0};
    lt_answer_settings answering;
    lt_err err = {0};
    bool failed = false;
    int exit_code = LT_EXIT_OK;
    if (lt_cli_parse(&table, argc, argv, &settings, &given, &exit_code)) {
        lt_status status =
            lt_cli_choose_answering(&table, &given, &settings.answering, &answering, &err);
        if (status == LT_OK) status = run(&settings, &answering, &failed, &err);
        if (status != LT_OK)
            exit_code = lt_cli_fail(status, &err);
        else if (failed)
            exit_code = LT_EXIT_FAILURE;
    }
    lt_options_free(&table, &settings, &given);
    return exit_code;
}
