/* The native templates in Jinja, for those who serve a model by its chat template. They give the
 * ids that template.c gives (tests/unit/data_pipeline/test_chat_records.c), and go on in the same
 * form where a conversation has more than one question. */
#include <string.h>

#include "data_pipeline/chat_template.h"
#include "data_pipeline/tokenizer_internal.h"

#define PREAMBLE                                                                          \
    "Below is an instruction that describes a task. Write a response that appropriately " \
    "completes the request."

/* The system text, or the preamble; then `turns`. */
#define OPENING                                                                \
    "{% if messages[0]['role'] == 'system' %}"                                 \
    "{% set opening = messages[0]['content'] %}{% set turns = messages[1:] %}" \
    "{% else %}{% set opening = '' %}{% set turns = messages %}{% endif %}"    \
    "{{ opening or '" PREAMBLE "' }}"

#define REFUSE_ROLE(name)                                                                  \
    "{% else %}{{ raise_exception('the template " name " has no messages of the role ' + " \
    "message['role']) }}{% endif %}"

/* `end`: an expression, added to an answer. */
#define QUESTIONS_AND_ANSWERS(name, end)                                               \
    OPENING                                                                            \
    "{% for message in turns %}{% if message['role'] == 'user' %}"                     \
    "{{ '\\n\\n### Instruction:\\n' + message['content'] }}"                           \
    "{% elif message['role'] == 'assistant' %}"                                        \
    "{{ '\\n\\n### Response:\\n' + message['content'] + " end                          \
    " }}" REFUSE_ROLE(name) "{% endfor %}{% if add_generation_prompt %}{{ '\\n\\n### " \
                            "Response:\\n' }}{% endif %}"

static const char dolly[] = QUESTIONS_AND_ANSWERS("dolly", "'\\n\\n### End'");
static const char alpaca[] = QUESTIONS_AND_ANSWERS("alpaca", "eos_token");

/* The line feed after a message belongs to the next one, so that no answer has to end with it. */
static const char chatml[] =
    "{% for message in messages %}{% if not loop.first %}{{ '\\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '\\n<|im_start|>assistant\\n' }}{% endif %}";

static const char plain[] =
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ message['content'] + '\\n\\n' }}{% elif message['role'] == 'user' %}"
    "{{ message['content'] }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token }}" REFUSE_ROLE("plain") "{% endfor %}";

const char *lt_template_jinja(lt_template template_)
{
    static const char *const sources[] = {[LT_TEMPLATE_DOLLY] = dolly,
                                          [LT_TEMPLATE_ALPACA] = alpaca,
                                          [LT_TEMPLATE_CHATML] = chatml,
                                          [LT_TEMPLATE_PLAIN] = plain,
                                          [LT_TEMPLATE_CHAT] = NULL};
    return sources[template_];
}

/* A token as a Jinja expression that prints it. */
static lt_status print_token(const char *token, lt_buffer *out, lt_err *err)
{
    LT_TRY(lt_buffer_append_text(out, "{{ '", err));
    for (; *token; token++) {
        if (*token == '\n') {
            LT_TRY(lt_buffer_append_text(out, "\\n", err));
            continue;
        }
        if (*token == '\'' || *token == '\\') LT_TRY(lt_buffer_append_text(out, "\\", err));
        LT_TRY(lt_buffer_append(out, token, 1, err));
    }
    return lt_buffer_append_text(out, "' }}", err);
}

/* What the source speaks of has to be there: a special token that is none would be mere text. */
static lt_status check_tokens(lt_template template_, const lt_tokenizer *tokenizer, lt_err *err)
{
    const char *const *tokens = lt_template_special_tokens(template_);
    for (; *tokens; tokens++) {
        if (!lt_tokenizer_is_special(tokenizer, lt_tokenizer_token_id(tokenizer, *tokens)))
            return lt_fail(err, LT_ERR_USAGE,
                           "the tokenizer has no special token '%.*s', which the template %s needs",
                           (int)strcspn(*tokens, "\n"), *tokens, lt_template_name(template_));
    }
    bool ends_with_eos = lt_template_special_tokens(template_)[0] == NULL;
    if (!ends_with_eos || lt_tokenizer_eos_id(tokenizer) >= 0) return LT_OK;
    return lt_fail(err, LT_ERR_USAGE,
                   "the tokenizer has no end-of-text token (eos_token in tokenizer_config.json), "
                   "which the template %s needs",
                   lt_template_name(template_));
}

lt_status lt_template_to_jinja(lt_template template_, const lt_tokenizer *tokenizer, lt_buffer *out,
                               lt_err *err)
{
    const char *source = lt_template_jinja(template_);
    if (template_ == LT_TEMPLATE_CHAT) {
        source = lt_tokenizer_chat_template(tokenizer);
        if (!source) return lt_fail(err, LT_ERR_USAGE, "the tokenizer has no chat template");
        return lt_buffer_append_text(out, source, err);
    }
    LT_TRY(check_tokens(template_, tokenizer, err));
    for (size_t i = 0; i < tokenizer->prefix.count; i++)
        LT_TRY(print_token(lt_tokenizer_token(tokenizer, tokenizer->prefix.data[i]), out, err));
    return lt_buffer_append_text(out, source, err);
}
