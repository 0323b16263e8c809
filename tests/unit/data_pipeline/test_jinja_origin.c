/* Where each byte of a rendering is from: templates must not make what a user wrote look like
 * their own text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "data_pipeline/jinja.h"

/* messages[i] is of source i: "Ab é<", "xyz", " t ". `plain` is not marked, `user` is, as a whole.
 */
static json_t *make_variables(void)
{
    return json_pack("{s:[{s:s,s:s},{s:s,s:s},{s:s,s:s}],s:s,s:s}", "messages", "role", "u",
                     "content", "Ab é<", "role", "v", "content", "xyz", "role", "w", "content",
                     " t ", "plain", "pq", "user", "me");
}

static int own_index(void *context, size_t element)
{
    (void)context;
    return (int)element;
}

/* One character for each byte: '.' the template's, a letter of the source; in generation blocks
 * '_', and capitals. */
static void spell(const lt_buffer *origin, char *out)
{
    for (size_t i = 0; i < origin->size; i++) {
        unsigned char byte = (unsigned char)origin->data[i];
        unsigned char source = byte & (LT_JINJA_GENERATION - 1);
        bool generation = byte & LT_JINJA_GENERATION;
        out[i] = source ? (char)((generation ? 'A' : 'a') + source - LT_JINJA_INPUT)
                        : (generation ? '_' : '.');
    }
    out[origin->size] = '\0';
}

#define M "{% set m = messages[0].content %}{% set x = messages[1].content %}"

static const struct {
    const char *source, *text, *origin;
} cases[] = {
    {"<s>{{ plain }}", "<s>pq", "....."},
    {"<{{ messages[1].content }}>", "<xyz>", ".bbb."},
    {"{{ user }}{{ messages[2].role }}", "mew", "aac"},
    {M "{{ m }}", "Ab é<", "aaaaaa"},
    /* put together */
    {M "{{ '[' + m + x + ']' }}", "[Ab é<xyz]", ".aaaaaabbb."},
    {M "{{ 1 ~ x ~ none }}", "1xyzNone", ".bbb...."},
    {M "{{ x * 2 }}", "xyzxyz", "bbbbbb"},
    {M "{{ [m, 'q', x] | join('|') }}", "Ab é<|q|xyz", "aaaaaa...bbb"},
    {M "{{ x.join(['1', '2']) }}", "1xyz2", ".bbb."},
    {M "{% set t %}a{{ x }}{% endset %}{{ t }}{{ t[1:] }}", "axyzxyz", ".bbbbbb"},
    {M "{% macro f(v) %}({{ v }}){% endmacro %}{{ f(x) }}", "(xyz)", ".bbb."},
    {M "{% filter upper %}q{{ x }}{% endfilter %}", "QXYZ", ".bbb"},
    {M "{% set ns = namespace(t='') %}{% for m in messages %}{% set ns.t = ns.t ~ m.role %}"
       "{% endfor %}{{ ns.t }}",
     "uvw", "abc"},
    /* cut */
    {M "{{ ('q' + x)[1:3] }}{{ ('q' + x)[::-1] }}{{ ('q' + x)[0] }}", "xyzyxqq", "bbbbb.."},
    {M "{{ ('q' + m + 'r')[4] }}{{ (m + 'é')[::-2] }}", "éééb", "aa..aaa"},
    {M "{{ (' ' + messages[2].content + '_') | trim }}", "t _", "cc."},
    {M "{{ ('--' + x).lstrip('-x') }}{{ (x + 'q').rstrip('q') }}", "yzxyz", "bbbbb"},
    {M "{% for c in 'q' + x %}{{ c }},{% endfor %}", "q,x,y,z,", "..b.b.b."},
    {M "{{ ('1,' + x + ',2').split(',') | join }}", "1xyz2", ".bbb."},
    {M "{{ ('1 ' + x).rsplit(' ', 1)[1] }}{{ (x + '\\n1').splitlines()[0] }}", "xyzxyz", "bbbbbb"},
    {M "{{ (x + '=1').partition('=')[0] }}{{ ('k' + x).removeprefix('k') }}", "xyzxyz", "bbbbbb"},
    {M "{{ m | first }}{{ x | last }}{{ x | list | first }}{{ x | reverse }}", "Azxzyx", "abbbbb"},
    /* made anew */
    {M "{{ m | upper }}{{ x | capitalize }}{{ x.title() }}", "AB É<XyzXyz", "aaaaaabbbbbb"},
    {M "{{ x | replace('y', 'q') }}{{ 'aya' | replace('y', x) }}", "xqzaxyza", "b.b.bbb."},
    {M "{{ x.replace('', '-') }}", "-x-y-z-", ".b.b.b."},
    {M "{{ m | e }}", "Ab é&lt;", "aaaaaaaaa"},
    {M "{{ {'k': m} | tojson }}", "{\"k\": \"Ab é<\"}", ".......aaaaaa.."},
    {M "{{ (x + '\"') | tojson }}", "\"xyz\\\"\"", ".bbb..."},
    {M "{{ messages[1] | tojson }}", "{\"role\": \"v\", \"content\": \"xyz\"}",
     "..bbbb....b....bbbbbbb....bbb.."},
    {M "{{ [x, 'q'] }}", "['xyz', 'q']", "..bbb......."},
    {M "{{ x | string | safe | trim }}", "xyz", "bbb"},
    {M "{{ x.zfill(5) }}{{ x | center(5) }}", "00xyz xyz ", "..bbb.bbb."},
    {M "{{ (x + '\\n' + x) | indent(1) }}", "xyz\n xyz", "bbb..bbb"},
    {M "{{ '<{}>'.format(x) }}{{ (x + '{}').format('q') }}", "<xyz>xyzq", ".bbb.bbb."},
    {M "{{ x | default('d') }}{{ [x, 'a'] | sort | first }}{{ [x] | map('upper') | join }}",
     "xyzaXYZ", "bbb.bbb"},
    {M "{{ messages | map(attribute='role') | join(',') }}", "u,v,w", "a.b.c"},
    {M "{{ [x, x] | unique | list | length }}{{ x | length }}", "13", ".."},
    /* generation blocks */
    {M "a{% generation %}b{{ x }}{% endgeneration %}c", "abxyzc", "._BBB."},
    {M "{% set t %}{% generation %}{{ x }}q{% endgeneration %}{% endset %}{{ t[2:] }}.", "zq.",
     "B_."},
    {M "{% macro f() %}{% generation %}g{% endgeneration %}h{% endmacro %}{{ f() }}", "gh", "_."},
};

static void test_origins(void **state)
{
    (void)state;
    json_t *variables = make_variables();
    const lt_jinja_mark marks[] = {{.variable = "messages", .source = own_index},
                                   {.variable = "user"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lt_jinja *template_;
        lt_jinja_text out;
        lt_err err = {0};
        char spelled[256];
        if (lt_jinja_compile(cases[i].source, strlen(cases[i].source), "t", &template_, &err) ||
            lt_jinja_render(template_, variables, marks, 2, NULL, &out, &err))
            fail_msg("%s: %s", cases[i].source, err.message);
        assert_string_equal(lt_buffer_text(&out.text), cases[i].text);
        assert_int_equal(out.origin.size, out.text.size);
        spell(&out.origin, spelled);
        if (strcmp(spelled, cases[i].origin) != 0)
            fail_msg("%s:\n  text   %s\n  origin %s\n  wanted %s", cases[i].source, cases[i].text,
                     spelled, cases[i].origin);
        assert_int_equal(out.has_generation, strstr(cases[i].source, "endgeneration") != NULL);
        lt_jinja_text_free(&out);
        lt_jinja_free(template_);
    }
    json_decref(variables);
}

/* A role that is known may become part of a special token, any other one may not. */
static void test_words(void **state)
{
    (void)state;
    static const char *const words[] = {"user", "u", NULL};
    static const char source[] =
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ m | length }}{% endfor %}";
    json_t *variables = make_variables();
    const lt_jinja_mark mark = {
        .variable = "messages", .source = own_index, .key = "role", .words = words};
    lt_jinja *template_;
    lt_jinja_text out;
    lt_err err = {0};
    char spelled[256];
    assert_int_equal(lt_jinja_compile(source, strlen(source), "t", &template_, &err), LT_OK);
    assert_int_equal(lt_jinja_render(template_, variables, &mark, 1, NULL, &out, &err), LT_OK);
    assert_string_equal(lt_buffer_text(&out.text), "<|u|>Ab é<2<|v|>xyz2<|w|> t 2");
    spell(&out.origin, spelled);
    assert_string_equal(spelled, ".....aaaaaa...b..bbb...c..ccc.");
    lt_jinja_text_free(&out);
    lt_jinja_free(template_);
    json_decref(variables);
}

static int too_many(void *context, size_t element)
{
    (void)context;
    return element == 2 ? LT_JINJA_MAX_SOURCES : 0;
}

static void test_bad_source(void **state)
{
    (void)state;
    json_t *variables = make_variables();
    const lt_jinja_mark mark = {.variable = "messages", .source = too_many};
    lt_jinja *template_;
    lt_jinja_text out;
    lt_err err = {0};
    assert_int_equal(lt_jinja_compile("{{ messages }}", 14, "t", &template_, &err), LT_OK);
    assert_int_equal(lt_jinja_render(template_, variables, &mark, 1, NULL, &out, &err),
                     LT_ERR_LIMIT);
    assert_non_null(strstr(err.message, "element 2 of 'messages'"));
    lt_jinja_free(template_);
    json_decref(variables);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_origins),
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_bad_source),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
