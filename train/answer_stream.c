#include "train/answer_stream.h"

#include <utf8proc.h>

void lt_answer_stream_begin(lt_answer_stream *stream, const lt_tokenizer *tokenizer,
                            const lt_answer_settings *settings, bool continues)
{
    lt_stream_decoder_init(&stream->decoder, tokenizer, true);
    stream->decoder.started = continues; /* the space before the first word stays */
    stream->scanner = (lt_stop_scanner){.stop_texts = settings->stop_texts,
                                        .stop_text_count = settings->stop_text_count,
                                        .trim_end = !continues};
}

/* Hands on what has become certain. */
static lt_status show(lt_answer_stream *stream, lt_err *err)
{
    lt_buffer *shown = &stream->shown;
    if (shown->size == 0) return LT_OK;
    if (stream->on_text) stream->on_text(stream->context, stream->index, shown->data, shown->size);
    lt_status status = lt_buffer_append(&stream->answer->text, shown->data, shown->size, err);
    lt_buffer_clear(shown);
    return status;
}

static lt_status scan(lt_answer_stream *stream, lt_err *err)
{
    lt_status status = lt_stop_scanner_feed(&stream->scanner, lt_buffer_text(&stream->decoded),
                                            stream->decoded.size, &stream->shown, err);
    lt_buffer_clear(&stream->decoded);
    if (stream->scanner.stopped) stream->answer->finish = LT_FINISH_STOP;
    return status == LT_OK ? show(stream, err) : status;
}

lt_status lt_answer_stream_finish(lt_answer_stream *stream, lt_err *err)
{
    if (stream->finished) return LT_OK;
    stream->finished = true;
    LT_TRY(lt_stream_decoder_finish(&stream->decoder, &stream->decoded, err));
    LT_TRY(scan(stream, err));
    LT_TRY(lt_stop_scanner_finish(&stream->scanner, &stream->shown, err));
    return show(stream, err);
}

lt_status lt_answer_stream_take(lt_answer_stream *stream, int32_t id, bool is_stop, lt_err *err)
{
    LT_TRY(lt_ids_push(&stream->answer->ids, id, err));
    if (is_stop) {
        LT_TRY(lt_answer_stream_finish(stream, err));
        stream->answer->finish = LT_FINISH_STOP;
        return LT_OK;
    }
    LT_TRY(lt_stream_decoder_push(&stream->decoder, id, &stream->decoded, err));
    return scan(stream, err);
}

void lt_answer_stream_free(lt_answer_stream *stream)
{
    lt_stop_scanner_free(&stream->scanner);
    lt_buffer_free(&stream->decoder.pending);
    for (int i = 0; i < LT_MAX_DECODER_STEPS; i++)
        lt_buffer_free(&stream->decoder.step_text[i]);
    lt_buffer_free(&stream->decoded);
    lt_buffer_free(&stream->shown);
}

lt_status lt_stop_texts_check(const lt_answer_settings *settings, lt_err *err)
{
    for (int64_t i = 0; i < settings->stop_text_count; i++) {
        const utf8proc_uint8_t *at = (const utf8proc_uint8_t *)settings->stop_texts[i];
        if (!*at) return lt_fail(err, LT_ERR_USAGE, "a stop text is empty");
        while (*at) {
            utf8proc_int32_t codepoint;
            utf8proc_ssize_t n = utf8proc_iterate(at, -1, &codepoint);
            if (n <= 0) return lt_fail(err, LT_ERR_USAGE, "a stop text is not UTF-8");
            at += n;
        }
    }
    return LT_OK;
}
