/* Hostile templates: ones that try to hang, to fill the memory or to break the parser, and what
 * each has to end with. `repeat` copies of `unit` stand between `source` and `tail`. */
#ifndef LT_TESTS_JINJA_CORPUS_H
#define LT_TESTS_JINJA_CORPUS_H

#include <stddef.h>

#include "base/status.h"

typedef struct hostile_template {
    const char *name;
    lt_status expected;
    const char *message; /* a part of it */
    const char *source;
    size_t size; /* of source, 0: strlen */
    const char *unit;
    size_t repeat;
    const char *tail;
} hostile_template;

#define DOUBLE(times)                                            \
    "{% set ns = namespace(x=['ab']) %}{% for i in range(" times \
    ") %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"

static const hostile_template hostile_templates[] = {
    /* sizes */
    {"repeat a text", LT_ERR_LIMIT, "longer than", "{{ 'a' * 10**9 }}", 0, NULL, 0, NULL},
    {"repeat a text, 64 bits", LT_ERR_LIMIT, "longer than", "{{ 'ab' * 2**62 }}", 0, NULL, 0, NULL},
    {"repeat a list", LT_ERR_LIMIT, "memory", "{{ [0] * 10**9 }}", 0, NULL, 0, NULL},
    {"repeat a list, 64 bits", LT_ERR_LIMIT, "too long", "{{ [0, 0, 0, 0] * 2**62 }}", 0, NULL, 0,
     NULL},
    {"a large range", LT_ERR_LIMIT, "range", "{{ range(10**12) }}", 0, NULL, 0, NULL},
    {"a range of all numbers", LT_ERR_LIMIT, "range",
     "{{ range(-2**63 if 0 else -9223372036854775807, 9223372036854775807) }}", 0, NULL, 0, NULL},
    {"a power", LT_ERR_LIMIT, "64 bits", "{{ 10**10**10 }}", 0, NULL, 0, NULL},
    {"a long number", LT_ERR_LIMIT, "64 bits", "{{ 123456789012345678901234567890 }}", 0, NULL, 0,
     NULL},
    {"a wide field", LT_ERR_LIMIT, "longer than", "{{ 'a'.center(10**12) }}", 0, NULL, 0, NULL},
    {"a wide indentation", LT_ERR_LIMIT, "longer than", "{{ 'a\nb' | indent(10**12) }}", 0, NULL, 0,
     NULL},
    {"a wide number", LT_ERR_LIMIT, "longer than", "{{ '1'.zfill(9223372036854775807) }}", 0, NULL,
     0, NULL},
    {"indented JSON", LT_ERR_LIMIT, "longer than", "{{ [[1]] | tojson(indent=10**10) }}", 0, NULL,
     0, NULL},
    {"replace makes longer", LT_ERR_LIMIT, "longer than",
     "{% set a = 'a' * 3000 %}{{ a | replace('a', a) }}", 0, NULL, 0, NULL},
    {"a date", LT_ERR_LIMIT, "date", "{{ strftime_now('%9999d') }}", 0, NULL, 0, NULL},
    {"a long date format", LT_ERR_LIMIT, "date", "{{ strftime_now('%A' * 5000) }}", 0, NULL, 0,
     NULL},
    {"output in a loop", LT_ERR_LIMIT, "",
     "{% for i in range(100000) %}{{ 'a' * 100 }}{% endfor %}", 0, NULL, 0, NULL},

    /* time */
    {"nested loops", LT_ERR_LIMIT, "steps",
     "{% for a in range(1000) %}{% for b in range(1000) %}{% for c in range(1000) %}"
     "{% endfor %}{% endfor %}{% endfor %}",
     0, NULL, 0, NULL},
    {"doubling a text", LT_ERR_LIMIT, "longer than",
     "{% set ns = namespace(x='a') %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}"
     "{% endfor %}",
     0, NULL, 0, NULL},
    {"doubling a list", LT_ERR_LIMIT, "",
     "{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}"
     "{% endfor %}",
     0, NULL, 0, NULL},
    {"shared lists, printed", LT_ERR_LIMIT, "", DOUBLE("60") "{{ ns.x }}", 0, NULL, 0, NULL},
    {"shared lists, as JSON", LT_ERR_LIMIT, "", DOUBLE("60") "{{ ns.x | tojson }}", 0, NULL, 0,
     NULL},
    {"shared lists, compared", LT_ERR_LIMIT, "steps",
     DOUBLE("60") "{% set a = ns.x %}" DOUBLE("60") "{{ a == ns.x }}", 0, NULL, 0, NULL},
    {"shared lists, ordered", LT_ERR_LIMIT, "",
     DOUBLE("60") "{% set a = ns.x %}" DOUBLE("60") "{{ [a, ns.x] | sort }}", 0, NULL, 0, NULL},
    {"searching from the end", LT_ERR_LIMIT, "steps",
     "{% set a = 'a' * 4000000 %}{{ a.rfind('b' + 'a' * 2000000) }}", 0, NULL, 0, NULL},
    {"splitting into characters", LT_ERR_LIMIT, "", "{{ (' a' * 2000000).split() | length }}", 0,
     NULL, 0, NULL},
    {"keys that collide", LT_ERR_LIMIT, "",
     "{% set ns = namespace(d={}) %}{% for i in range(5000) %}"
     "{% set ns.d = dict(ns.d, **{i | string: i}) %}{% endfor %}",
     0, NULL, 0, NULL},
    {"many names in a scope", LT_ERR_LIMIT, "", "{% for i in range(1000000) %}{{ i }}{% endfor %}",
     0, NULL, 0, NULL},
    {"look-ups at the end of a text", LT_ERR_LIMIT, "steps",
     "{% set a = 'é' * 1000000 %}{% for i in range(50000) %}{{ a[-1] }}{% endfor %}", 0, NULL, 0,
     NULL},

    /* depth */
    {"a macro that calls itself", LT_ERR_LIMIT, "deeper than",
     "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", 0, NULL, 0, NULL},
    {"macros that call each other", LT_ERR_LIMIT, "deeper than",
     "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{{ f() }}{% endmacro %}"
     "{{ f() }}",
     0, NULL, 0, NULL},
    {"a default that calls its macro", LT_ERR_LIMIT, "deeper than",
     "{% macro f(a=f()) %}{% endmacro %}{{ f() }}", 0, NULL, 0, NULL},
    {"a caller of a caller", LT_ERR_LIMIT, "deeper than",
     "{% macro f() %}{% call f() %}{{ caller() }}{% endcall %}{% endmacro %}{{ f() }}", 0, NULL, 0,
     NULL},
    {"a loop over itself", LT_ERR_LIMIT, "deeper than",
     "{% set x = [1] %}{% for i in x recursive %}{{ loop(x) }}{% endfor %}", 0, NULL, 0, NULL},
    {"a namespace in itself, printed", LT_ERR_LIMIT, "nested deeper",
     "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}", 0, NULL, 0, NULL},
    {"a namespace in itself, compared", LT_ERR_LIMIT, "nested deeper",
     "{% set a = namespace() %}{% set a.me = [a] %}{% set b = namespace() %}{% set b.me = [b] %}"
     "{{ [a] }}",
     0, NULL, 0, NULL},
    {"a list in a list", LT_ERR_LIMIT, "nested deeper",
     "{% set ns = namespace(x=[]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}{% endfor %}"
     "{{ ns.x }}",
     0, NULL, 0, NULL},
    {"map of map of map", LT_ERR_LIMIT, "nested deeper",
     "{% set ns = namespace(x=[1]) %}{% for i in range(2000) %}{% set ns.x = [ns.x] %}{% endfor %}"
     "{{ ns.x == ns.x + [] }}{{ ns.x | tojson }}",
     0, NULL, 0, NULL},
    {"parentheses", LT_ERR_LIMIT, "nested deeper", "{{ ", 0, "(", 100000, "1"},
    {"brackets", LT_ERR_LIMIT, "nested deeper", "{{ ", 0, "[", 100000, "1"},
    {"braces", LT_ERR_LIMIT, "nested deeper", "{{ ", 0, "{1:", 100000, "1"},
    {"minus signs", LT_ERR_LIMIT, "nested deeper", "{{ ", 0, "- ", 100000, "1 }}"},
    {"nots", LT_ERR_LIMIT, "nested deeper", "{{ ", 0, "not ", 100000, "1 }}"},
    {"ifs", LT_ERR_LIMIT, "nested deeper", "", 0, "{% if 1 %}", 50000, ""},
    {"fors", LT_ERR_LIMIT, "nested deeper", "", 0, "{% for x in 'a' %}", 50000, ""},
    {"elses", LT_ERR_LIMIT, "nested deeper", "{{ 1", 0, " if 0 else 1", 50000, " }}"},
    {"ifs after another", LT_ERR_LIMIT, "in a row", "{{ 1", 0, " if 0", 50000, " }}"},
    {"look-ups", LT_ERR_LIMIT, "in a row", "{{ a", 0, ".a", 50000, " }}"},
    {"calls", LT_ERR_LIMIT, "in a row", "{{ a", 0, "()", 50000, " }}"},
    {"filters", LT_ERR_LIMIT, "in a row", "{{ a", 0, "|e", 50000, " }}"},
    {"tests", LT_ERR_LIMIT, "in a row", "{{ a", 0, " is none()", 50000, " }}"},
    {"calls of arguments", LT_ERR_LIMIT, "nested deeper", "{{ a", 0, "(a", 50000, ")"},
    {"targets", LT_ERR_LIMIT, "nested deeper", "{% set ", 0, "(", 50000, "a"},
    {"long rows are fine", LT_OK, NULL, "{{ 1", 0, " + 1", 100000, " }}"},
    {"many branches are fine", LT_OK, NULL, "{% if 0 %}", 0, "{% elif 0 %}", 50000, "{% endif %}"},
    {"many tags are fine", LT_OK, NULL, "", 0, "{{ 1 }}\n", 50000, ""},
    {"a template of 2 MB", LT_ERR_LIMIT, "bytes", "", 0, "text", 524289, ""},

    /* no end */
    {"an output", LT_ERR_FORMAT, "no end", "{{ a", 0, NULL, 0, NULL},
    {"only its begin", LT_ERR_FORMAT, "no end", "{{", 0, NULL, 0, NULL},
    {"a block", LT_ERR_FORMAT, "no end", "{% if", 0, NULL, 0, NULL},
    {"a comment", LT_ERR_FORMAT, "no end", "{# a -", 0, NULL, 0, NULL},
    {"a raw block", LT_ERR_FORMAT, "no end", "{% raw %}{% endraw", 0, NULL, 0, NULL},
    {"a string", LT_ERR_FORMAT, "no end", "{{ 'a\\", 0, NULL, 0, NULL},
    {"a string's escape", LT_ERR_FORMAT, "digits", "{{ '\\u12' }}", 0, NULL, 0, NULL},
    {"a body", LT_ERR_FORMAT, "endfor", "{% for a in b %}", 0, NULL, 0, NULL},
    {"many raw blocks", LT_ERR_FORMAT, "no end", "{% raw %}", 0, "{% endraw ", 50000, ""},
    {"many comments", LT_ERR_FORMAT, "no end", "{#", 0, "-# ", 100000, ""},

    /* bytes */
    {"no UTF-8", LT_ERR_FORMAT, "UTF-8", "a\xff", 0, NULL, 0, NULL},
    {"cut UTF-8", LT_ERR_FORMAT, "UTF-8", "{{ '\xe4\xb8", 0, NULL, 0, NULL},
    {"a surrogate", LT_ERR_FORMAT, "UTF-8", "\xed\xa0\x80", 0, NULL, 0, NULL},
    {"an escaped surrogate", LT_ERR_UNSUPPORTED, "surrogate", "{{ '\\ud800' }}", 0, NULL, 0, NULL},
    {"beyond Unicode", LT_ERR_FORMAT, "Unicode", "{{ '\\U00110000' }}", 0, NULL, 0, NULL},
    {"NUL in the text", LT_OK, NULL, "a\0{{ 1 }}\0", 10, NULL, 0, NULL},
    {"NUL in a tag", LT_ERR_FORMAT, "unexpected", "{{ \0 }}", 7, NULL, 0, NULL},
    {"NUL in a string", LT_OK, NULL, "{{ '\0'.split('\0') | tojson }}", 30, NULL, 0, NULL},
    {"NUL after a brace", LT_OK, NULL, "{\0{", 3, NULL, 0, NULL},
    {"NUL in a name", LT_ERR_FORMAT, "filter", "{{ ['a'] | map('upper\0x') | list }}", 35, NULL, 0,
     NULL},

    /* ways out */
    {"a class", LT_ERR_FORMAT, "unsafe", "{{ ''.__class__.__mro__ }}", 0, NULL, 0, NULL},
    {"a class by index", LT_ERR_FORMAT, "unsafe", "{{ ''['__class__']['__mro__'] }}", 0, NULL, 0,
     NULL},
    {"globals", LT_ERR_FORMAT, "unsafe", "{{ range.__globals__.os }}", 0, NULL, 0, NULL},
    {"a changed list", LT_ERR_FORMAT, "unsafe", "{{ [].append(1) }}", 0, NULL, 0, NULL},
    {"a format that looks in", LT_ERR_UNSUPPORTED, "format", "{{ '{0.__class__}'.format(1) }}", 0,
     NULL, 0, NULL},
    {"the attr filter", LT_ERR_UNSUPPORTED, "'attr'", "{{ '' | attr('__class__') }}", 0, NULL, 0,
     NULL},
    {"an include", LT_ERR_UNSUPPORTED, "include", "{% include '/etc/passwd' %}", 0, NULL, 0, NULL},
    {"an import", LT_ERR_UNSUPPORTED, "import", "{% import 'os' as os %}", 0, NULL, 0, NULL},
};

#endif
