#include "train/state.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

void lt_train_state_init(lt_train_state *state)
{
    memset(state, 0, sizeof *state);
#define START(name, start) state->name = start;
#define NOTHING(name)
    LT_TRAIN_STATE(START, START, NOTHING)
#undef START
#undef NOTHING
}

json_t *lt_number_to_json(double value)
{
    if (isnan(value)) return json_string(LT_JSON_LITERAL_PREFIX "NaN");
    if (isinf(value))
        return json_string(value > 0 ? LT_JSON_LITERAL_PREFIX "Infinity"
                                     : LT_JSON_LITERAL_PREFIX "-Infinity");
    return json_real(value);
}

lt_status lt_train_state_to_json(const lt_train_state *state, json_t **out, lt_err *err)
{
    json_t *object = json_object();
    bool ok = object != NULL;
#define PUT_INTEGER(name, start) \
    ok = ok && json_object_set_new(object, #name, json_integer((json_int_t)state->name)) == 0;
#define PUT_NUMBER(name, start) \
    ok = ok && json_object_set_new(object, #name, lt_number_to_json(state->name)) == 0;
#define PUT_TEXT(name) ok = ok && json_object_set_new(object, #name, json_string(state->name)) == 0;
    LT_TRAIN_STATE(PUT_INTEGER, PUT_NUMBER, PUT_TEXT)
#undef PUT_INTEGER
#undef PUT_NUMBER
#undef PUT_TEXT
    if (!ok) {
        json_decref(object);
        return lt_fail_nomem(err, 4096, "the training state");
    }
    *out = object;
    return LT_OK;
}

static lt_status missing(const char *where, const char *name, lt_err *err)
{
    return lt_fail(err, LT_ERR_FORMAT, "%s: the training state has no valid \"%s\"", where, name);
}

static lt_status read_number(const json_t *value, const char *where, const char *name, double *out,
                             lt_err *err)
{
    const size_t prefix = strlen(LT_JSON_LITERAL_PREFIX);
    const char *text = json_string_value(value);
    if (json_is_number(value))
        *out = json_number_value(value);
    else if (text && strncmp(text, LT_JSON_LITERAL_PREFIX, prefix) == 0)
        *out = strtod(text + prefix, NULL);
    else
        return missing(where, name, err);
    return LT_OK;
}

static lt_status read_integer(const json_t *value, const char *where, const char *name,
                              int64_t *out, lt_err *err)
{
    if (!json_is_integer(value)) return missing(where, name, err);
    *out = (int64_t)json_integer_value(value);
    return LT_OK;
}

static lt_status read_text(const json_t *value, const char *where, const char *name,
                           char out[LT_STATE_TEXT_SIZE], lt_err *err)
{
    const char *text = json_string_value(value);
    if (!text || strlen(text) >= LT_STATE_TEXT_SIZE) return missing(where, name, err);
    strcpy(out, text);
    return LT_OK;
}

lt_status lt_train_state_from_json(const json_t *object, const char *where, lt_train_state *out,
                                   lt_err *err)
{
    lt_train_state_init(out);
#define GET_INTEGER(name, start) \
    LT_TRY(read_integer(json_object_get(object, #name), where, #name, &out->name, err));
#define GET_NUMBER(name, start) \
    LT_TRY(read_number(json_object_get(object, #name), where, #name, &out->name, err));
#define GET_TEXT(name) \
    LT_TRY(read_text(json_object_get(object, #name), where, #name, out->name, err));
    LT_TRAIN_STATE(GET_INTEGER, GET_NUMBER, GET_TEXT)
#undef GET_INTEGER
#undef GET_NUMBER
#undef GET_TEXT
    return LT_OK;
}
