#include "cli/chat_input.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char fence[] = "\"\"\"";
enum { FENCE_SIZE = 3 };
/* A terminal drops what is typed of a line beyond this, without a word (termios(3), ICANON). */
enum { TERMINAL_LINE_SIZE = 4095 };

/* One line without its line feed. */
static lt_input_kind read_line(lt_chat_input *input, const char *prompt, size_t *size)
{
    if (input->terminal) {
        fputs(prompt, stdout);
        fflush(stdout);
    }
    errno = 0;
    ssize_t length = getline(&input->line, &input->capacity, input->file);
    if (length < 0 && errno == EINTR) {
        clearerr(input->file);
        return LT_INPUT_INTERRUPTED;
    }
    if (length < 0) return LT_INPUT_END;
    *size = (size_t)length;
    if (*size > 0 && input->line[*size - 1] == '\n') --*size;
    input->cut = input->cut || (input->terminal && *size >= TERMINAL_LINE_SIZE);
    if (*size > 0 && input->line[*size - 1] == '\r') --*size;
    return LT_INPUT_MESSAGE;
}

static lt_status add_line(lt_chat_input *input, const char *line, size_t size, bool first,
                          lt_err *err)
{
    if (!first) LT_TRY(lt_buffer_append(&input->message, "\n", 1, err));
    return lt_buffer_append(&input->message, line, size, err);
}

/* Lines up to the one that ends with a fence; `line` is what stands behind the first fence. */
static lt_status read_block(lt_chat_input *input, const char *line, size_t size,
                            lt_input_kind *kind, lt_err *err)
{
    bool any = false;
    for (bool opening = true;; opening = false) {
        bool last = size >= FENCE_SIZE && memcmp(line + size - FENCE_SIZE, fence, FENCE_SIZE) == 0;
        if (last) size -= FENCE_SIZE;
        if (size > 0 || !(opening || last)) { /* the lines of the fences need not hold any text */
            LT_TRY(add_line(input, line, size, !any, err));
            any = true;
        }
        if (last) return LT_OK;
        *kind = read_line(input, "... ", &size);
        if (*kind == LT_INPUT_INTERRUPTED) return LT_OK;
        if (*kind == LT_INPUT_END) break;
        line = input->line;
    }
    *kind = LT_INPUT_MESSAGE; /* of which the end is missing */
    return LT_OK;
}

static lt_status read_message(lt_chat_input *input, lt_input_kind *kind, lt_err *err)
{
    size_t size = 0;
    lt_buffer_clear(&input->message);
    *kind = read_line(input, "> ", &size);
    if (*kind != LT_INPUT_MESSAGE) return LT_OK;
    if (size >= FENCE_SIZE && memcmp(input->line, fence, FENCE_SIZE) == 0)
        return read_block(input, input->line + FENCE_SIZE, size - FENCE_SIZE, kind, err);
    for (bool first = true;; first = false) {
        bool goes_on = size > 0 && input->line[size - 1] == '\\';
        LT_TRY(add_line(input, input->line, size - goes_on, first, err));
        if (!goes_on) return LT_OK;
        *kind = read_line(input, "... ", &size);
        if (*kind == LT_INPUT_INTERRUPTED) return LT_OK;
        if (*kind == LT_INPUT_END) break;
    }
    *kind = LT_INPUT_MESSAGE;
    return LT_OK;
}

lt_status lt_chat_input_read(lt_chat_input *input, lt_input_kind *kind, lt_err *err)
{
    input->cut = false;
    LT_TRY(read_message(input, kind, err));
    if (input->cut && *kind == LT_INPUT_MESSAGE) *kind = LT_INPUT_CUT;
    return LT_OK;
}

void lt_chat_input_free(lt_chat_input *input)
{
    free(input->line);
    lt_buffer_free(&input->message);
}
