"""Golden renderings of Jinja2 templates, as chat templates are rendered by transformers.

Makes jinja/constructs.json (small templates, one construct each) and jinja/conversations.json (the
chat templates in jinja/*.jinja, written for this project in the manner of the known model families,
each over the same conversations). Made with transformers 5.24.0, jinja2 3.1.6, markupsafe 3.0.4 and
CPython 3.11. Run: python tests/golden/make_jinja_golden.py
"""

import copy
import datetime
import json
import pathlib
import warnings

from transformers.utils import chat_template_utils

warnings.filterwarnings("ignore")
FOLDER = pathlib.Path(__file__).parent / "jinja"
NOW = 1753180200  # 2025-07-22 10:30:00 UTC


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(NOW, datetime.timezone.utc).replace(tzinfo=None)


chat_template_utils.datetime = Clock


def render(template, variables):
    """{"expected": text} or {"error": exception and message}."""
    try:
        compiled = chat_template_utils._cached_compile_jinja_template(template)
        return {"expected": compiled.render(**copy.deepcopy(variables))}
    except Exception as e:
        return {"error": f"{type(e).__name__}: {e}"}


VARIABLES = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "  Grüße, 世界 😀 \n"},
        {"role": "assistant", "content": "It's \"fine\".", "tool_calls": [{"name": "f", "arguments": {"x": 1, "y": None}}]},
        {"role": "user", "content": ""},
    ],
    "text": "The quick brown fox",
    "accents": "Éléphant ÀÇ straße Σίσυφος",
    "lines": "one\ntwo\r\nthree\n\n  four\n",
    "numbers": [3, 1, 2, 10, -4],
    "mixed": [1, 2.5, "a", None, True, [1], {"k": "v"}],
    "people": [
        {"name": "bob", "age": 30, "address": {"city": "Oslo"}},
        {"name": "Alice", "age": 25, "address": {"city": "Bergen"}},
        {"name": "carol", "age": 30, "address": {}},
    ],
    "d": {"b": 1, "a": 2, "C": 3, "items": 4, "1": 5},
    "empty": {},
    "tools": [{"type": "function", "function": {"name": "add", "parameters": {"properties": {"a": {"type": "number"}}, "required": ["a"]}}}],
    "yes": True,
    "nothing": None,
    "pi": 3.14159,
    "big": 9007199254740993,
    "html": "<b>&'\"</b>",
}

# One construct after the other. A line is a template; \n, \t, \r and \\ stand for themselves.
CONSTRUCTS = r"""
# text, comments, output
plain text
{{ text }}
{{text}}{{ text }}
a{# comment #}b
a {# comment #}\nb
a\n  {# comment #}\nb
a\n  {#- comment -#}  \nb
{# multi\nline #}x
{# with {{ tags }} and {% more %} #}x
a{# plus +#}\nb
text\n
text\n\n
text\r\nmore\r\n
{{ 'a' 'b' "c" }}
{{ 1, 2 }}
{{ (1,) }}{{ () }}
{{ "{{ not a tag }}" }}
{{ '%}' }}{% set x = '}}' %}{{ x }}
{ { x } } {x} {% set y = 1 %}{{y}}
{{ nothing }}{{ yes }}{{ missing }}{{ 1.0 }}{{ pi }}
unicode Ü 世界 {{ 'ß' }}
# white space
a\n{% if true %}\nb\n{% endif %}\nc
a\n  {% if true %}  \nb\n  {% endif %}\nc
a\n\t{% if true %}\nb\n\t{% endif %} c
a  {%- if true -%}  b  {%- endif -%}  c
a\n\n{%- if true %}\n\nb{% endif -%}\n\nc
a\n  {%+ if true %}\nb{% endif %}
a\n  {% if true +%}\nb{% endif %}
a {{- ' b ' -}} c
a\n  {{ 'x' }}\nb
a\n  {{- 'x' }}  \nb
  {% set x = 1 %}{{ x }}
{% set x = 1 %}  {% set y = 2 %}  {{ x + y }}
{% set x = 1 %}\n  {% set y = 2 %}\n  {{ x + y }}
x{% set x = 1 %}  \n  y
{{ 'x' }}  {% if true %} y {% endif %}
a{%-\nif true\n-%}b{%endif%}c
{% for i in [1,2] %}\n  {{ i }}\n{% endfor %}\nend
{%- for i in [1,2] -%}\n  {{ i }}\n{%- endfor -%}\nend
\u00a0{%- if true %}\u00a0x{% endif -%}\u2003y
{{ 'a' }}\n{{ 'b' }}\n
# raw
{% raw %}{{ x }}{% if %}{% endraw %}
a\n  {% raw %}\n b {% endraw %}\nc
a {%- raw -%}  {{ x }}  {%- endraw -%} c
{% raw %}\n{% endraw %}|
a\n  {%+ raw %} b\n  {%+ endraw +%}\nc
# literals
{{ 'a\\nb\\t\\x41\\u00e9\\U0001F600\\\\\\'\\"' }}
{{ "\\d\\q\\101\\0" | length }}
{{ 'a\\\nb' }}
{{ '\\é\\世' }}
{{ 1_000 }} {{ 0x1F }} {{ 0b101 }} {{ 0o17 }} {{ 00 }}
{{ 1.5e3 }} {{ 1e-7 }} {{ 1e16 }} {{ 123456789012345680.0 }} {{ 0.1 + 0.2 }} {{ 1e300 * 1e10 }}
{{ 5e-324 }} {{ 1.7976931348623157e308 }} {{ 100000.0 }} {{ 1e15 }} {{ 0.0001 }} {{ 0.00001 }} {{ -0.0 }}
{{ [1, 'two', 3.0, none, True, [], {}, ()] }}
{{ {'a': 1, 'b': [1, 2,], 3: none,} }}
{{ (1, 2)[0] }} {{ {'a': {'b': 5}}.a.b }} {{ [1, [2, 3]].1.0 }}
{{ true }} {{ false }} {{ none }} {{ None }} {{ True }} {{ False }}
{{ {1: 'a', 1.0: 'b', true: 'c'} }}
{{ {(1, 2): 'x'}[(1, 2)] }}
{% set e = {0: 'a', 1: 'b', 2: 'c', 3: 'd', 4: 'e', 5: 'f', 6: 'g', 7: 'h', 8: 'i', 9: 'j', 'x': 'k', (1, 2): 'l', none: 'm', 2.5: 'n', 1.0: 'B'} %}{{ e[9.0] }}{{ e['x'] }}{{ e[(1, 2)] }}{{ e[none] }}{{ e[2.5] }}{{ e[true] }}{{ e[10] }}{{ e|length }}{{ e }}
# printing values
{{ mixed }}
{{ messages }}
{{ d }} {{ empty }}
{{ ['it\\'s', 'say "x"', 'both \\' "', 'tab\\t nl\\n bs\\\\ \\x00 \\x7f é 世 \\u200b \\ue000 \\U0001F600'] }}
{{ d.items() }} {{ d.keys() }} {{ d.values() }}
{{ range(3) }} {{ range(1, 7, 2) }} {{ range(3)|list }}
{{ namespace(a=1, b='x') }}
{% macro m() %}{% endmacro %}{{ m }}
{{ [missing] }}
{% for x in [1, 2] %}{{ loop }}{% endfor %}
{{ (1, 'a')|string }} {{ none|string }} {{ missing|string }}|
# arithmetic
{{ 7 + 3 }} {{ 7 - 3 }} {{ 7 * 3 }} {{ 7 / 2 }} {{ 6 / 2 }} {{ 7 // 2 }} {{ 7 % 3 }} {{ 2 ** 10 }}
{{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 7.5 % -2 }} {{ 2 ** -1 }} {{ 2 ** 0.5 }}
{{ -2 ** 2 }} {{ 2 ** 3 ** 2 }} {{ -(3) }} {{ +5 }} {{ - -5 }} {{ 1 - -1 }}
{{ 1 + 2 * 3 - 4 / 2 }} {{ (1 + 2) * 3 }} {{ 10 - 3 - 2 }} {{ 100 // 7 // 2 }}
{{ true + true }} {{ true * 3 }} {{ -true }} {{ 1 + 1.5 }} {{ 3 * 1.5 }}
{{ 'a' + 'b' }} {{ 'ab' * 3 }} {{ 3 * 'ab' }} {{ 'x' * 0 }}| {{ 'x' * -1 }}|
{{ [1] + [2, 3] }} {{ [0] * 3 }} {{ (1,) + (2,) }} {{ 2 * (1, 2) }}
{{ 'a' ~ 1 ~ none ~ 2.5 ~ missing ~ [1] }} {{ 1 ~ 2 }} {{ 1 ~ 2 * 3 }}
{{ 'a' ~ 'b' + 'c' }}
{{ big }} {{ big + 1 }} {{ 9223372036854775807 }} {{ -9223372036854775807 - 1 }}
{{ -5|abs }} {{ (-5)|abs }} {{ 2.5|abs }} {{ -2.5|abs }}
{{ 0.0 // -3 }} {{ -0.0 // 3 }} {{ 1e308 * 10 }} {{ 7 // 0.5 }} {{ 5.0 % 3 }}
# comparison and logic
{{ 1 < 2 }} {{ 2 <= 2 }} {{ 3 > 4 }} {{ 4 >= 4 }} {{ 1 == 1.0 }} {{ 1 != 2 }} {{ 'a' < 'b' }} {{ 'Z' < 'a' }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1 == 1 }} {{ 3 > 2 > 1 < 5 }}
{{ [1, 2] < [1, 3] }} {{ (1, 2) == (1, 2) }} {{ [1] == (1,) }} {{ {'a': 1} == {'a': 1.0} }} {{ 'a' == 1 }} {{ none == false }}
{{ true == 1 }} {{ missing == missing }} {{ missing == none }} {{ missing != 1 }}
{{ 1 and 2 }} {{ 0 and 2 }} {{ 1 or 2 }} {{ 0 or '' or 'x' }} {{ not 1 }} {{ not '' }} {{ not not 3 }}
{{ true and not false or false }} {{ 1 if 0 or 1 else 2 }} {{ not 1 == 2 }} {{ (not 1) == 2 }}
{{ 'a' in 'cat' }} {{ 'x' not in 'cat' }} {{ 1 in [1, 2] }} {{ 1.0 in [1] }} {{ 'b' in d }} {{ 'z' in d }} {{ '' in 'x' }}
{{ 2 in (1, 2) }} {{ 3 in range(5) }} {{ 'x' in missing }} {{ ('b', 1) in d.items() }} {{ 1 in d.values() }} {{ 'b' in d.keys() }}
{{ not 1 in [1] }} {{ 1 not in [2] == true }}
{{ 'yes' if yes else 'no' }} {{ 'yes' if nothing }}| {{ 'a' if false else 'b' if false else 'c' }}
{{ ('a' if yes else 'b') ~ 'c' }} {{ 'x' if missing is defined else 'undefined' }}
# truth
{% for v in [0, 1, '', 'a', [], [0], {}, {'a': 1}, none, true, 0.0, (), (0,), missing, range(0), range(1)] %}{{ 'T' if v else 'F' }}{% endfor %}
{{ 'T' if namespace() else 'F' }}{{ 'T' if [] | map('upper') else 'F' }}{{ 'T' if d.items() else 'F' }}{{ 'T' if empty.items() else 'F' }}
# if
{% if yes %}a{% endif %}{% if nothing %}b{% endif %}{% if missing %}c{% endif %}
{% if 0 %}a{% elif 0 %}b{% elif 1 %}c{% else %}d{% endif %}
{% if 0 %}a{% else %}d{% endif %}
{% if 1: %}x{% endif %}
{% if 1, 2 %}tuple{% endif %}
{% if yes and (nothing or text == 'The quick brown fox') %}x{% endif %}
# for
{% for x in [1, 2, 3] %}{{ x }},{% endfor %}
{% for x in [] %}{{ x }}{% else %}none{% endfor %}
{% for x in missing %}{{ x }}{% else %}none{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}
{% for k in d %}{{ k }}{% endfor %}
{% for c in 'aé世' %}[{{ c }}]{% endfor %}
{% for a, (b, c) in [(1, (2, 3)), (4, [5, 6])] %}{{ a }}{{ b }}{{ c }} {% endfor %}
{% for a, b in ['xy', 'zw'] %}{{ b }}{{ a }}{% endfor %}
{% for x in [1, 2, 3, 4] if x % 2 == 0 %}{{ loop.index }}:{{ x }}/{{ loop.length }}{{ loop.last }} {% endfor %}
{% for x in [1, 3] if x > 5 %}{{ x }}{% else %}none{% endfor %}
{% for x in 'abc' %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }} {% endfor %}
{% for x in 'abc' %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {% endfor %}
{% for x in 'abc' %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }} {% endfor %}
{% for x in 'abcde' %}{{ loop.cycle('odd', 'even') }} {% endfor %}
{% for x in [1, 1, 2, 2, 1] %}{{ loop.changed(x) }} {% endfor %}
{% for x in [1, 2] %}{% for y in [3, 4] %}{{ loop.index }}{{ x }}{{ y }} {% endfor %}{{ loop.index }}{% endfor %}
{% for x in [1, 2] %}{% set outer = loop %}{% for y in 'ab' %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}
{% for x in range(5) %}{% if x == 1 %}{% continue %}{% endif %}{% if x == 3 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for x in [1, 2] %}{% break %}{% else %}else{% endfor %}
{% for x in [1, 2] %}{% continue %}{% else %}else{% endfor %}
{% for x in [1, 2] %}{% if loop.first %}{% continue %}{% endif %}{{ x }}{% else %}else{% endfor %}
{% for i in range(3) %}{% for j in range(3) %}{% if j == 1 %}{% break %}{% endif %}{{ i }}{{ j }} {% endfor %}{% endfor %}
{% for x in messages[::-1] %}{{ x.role }} {% endfor %}
{% for x in messages[1:] %}{{ x['role'] }}{% if not loop.last %}, {% endif %}{% endfor %}
{% for x in [1, 2, 3] | reverse %}{{ x }}{{ loop.last }}{% endfor %}
{% for x in [3, 1, 2] | sort %}{{ x }}{% endfor %}{{ x }}
{% set x = 9 %}{% for x in [1, 2] %}{{ x }}{% endfor %}{{ x }}
{% set n = 0 %}{% for x in [1, 2] %}{% set n = n + x %}{{ n }}{% endfor %}{{ n }}
{% for x in [1, 2] %}{% if loop.first %}{% set y = 5 %}{% endif %}[{{ y }}]{% endfor %}
{% for item in [{'a': [{'a': []}, {'a': [{'a': []}]}]}] recursive %}({{ loop.depth }}{{ loop(item.a) }}){% endfor %}
{% for x in [[1, [2]], [3]] recursive %}{% if x is iterable %}[{{ loop(x) }}]{% else %}{{ x }}{% endif %}{% endfor %}
{% set ns = namespace(stop=false) %}{% for x in range(6) if not ns.stop %}{{ x }}{% if x == 2 %}{% set ns.stop = true %}{% endif %}{% endfor %}
{% for x in range(4) if x != 1 %}{{ loop['index'] }}{{ x }}{{ loop.nextitem }} {% endfor %}
{% for x in d.items() %}{{ x[0] }}{{ x[1] }}{{ loop.length }} {% endfor %}
{% for x in numbers|select('odd') %}{{ x }}{{ loop.length }}{{ loop.revindex }} {% endfor %}
{% set g = [1, 2, 3]|map('string') %}{{ g|first }}{{ g|join('-') }}{{ g|list }}
{% set g = [1, 2, 3]|select %}{{ 2 in g }}{{ g|list }}
# set
{% set a = 1 %}{{ a }}{% set a = a + 1 %}{{ a }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set a, b = b, a %}{{ a }}{{ b }}
{% set a, (b, c) = [1, 'xy'] %}{{ a }}{{ b }}{{ c }}
{% set t = 1, 2, %}{{ t }}
{% set x %}block {{ text }}\n{% endset %}[{{ x }}]
{% set x | upper | trim %}  block {{ text }}  {% endset %}[{{ x }}]
{% set x %}{% set y = 1 %}{{ y }}{% endset %}{{ x }}{{ y }}
{% set ns = namespace() %}{% set ns.a = 1 %}{{ ns.a }}{{ ns.b }}|
{% set ns = namespace(n=0) %}{% for x in [1, 2, 3] %}{% set ns.n = ns.n + x %}{% endfor %}{{ ns.n }}
{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns['b'] }}{{ ns.items is defined }}
{% set ns = namespace(a=1, b=1) %}{% set ns.a, ns.b = 5, 6 %}{{ ns }}
{% set ns = namespace(t='') %}{% set ns.t %}block{% endset %}{{ ns.t }}
{% if true %}{% set inside = 'seen' %}{% endif %}{{ inside }}
{% for x in [1, 2, 3] %}{% set y %}{{ x }}{% if x == 2 %}{% break %}{% endif %}!{% endset %}{{ y }}{% endfor %}
{% set x = 5 if yes else 6 %}{{ x }}
{% with a = 1, b = 2 %}{{ a }}{{ b }}{% set c = 3 %}{% endwith %}{{ a }}{{ c }}
{% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}
# macros
{% macro f(a, b=2, c='x') %}[{{ a }},{{ b }},{{ c }}]{% endmacro %}{{ f(1) }}{{ f(1, 3) }}{{ f(a=4, c=5) }}{{ f() }}
{% macro f(a) %}{{ a is defined }}{% endmacro %}{{ f() }}{{ f(none) }}
{% macro f(a, b=a) %}{{ b }}{% endmacro %}{{ f(7) }}
{% set g = 1 %}{% macro f() %}{{ g }}{% endmacro %}{% set g = 2 %}{{ f() }}
{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}
{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, x=3) }}
{% macro f(a) %}{{ a }}{{ varargs|join('+') }}{% endmacro %}{{ f(1, 2, 3) }}
{% macro f(x) %}  padded {{ x }}  {% endmacro %}[{{ f('a')|trim }}]{{ f('b')|length }}
{% macro f() %}{{ caller() }}{% endmacro %}{% call f() %}body{% endcall %}
{% macro f() %}{{ caller(1, 'x') }}{% endmacro %}{% call(a, b='d') f() %}{{ a }}{{ b }}{% endcall %}
{% macro f() %}{% if caller is defined %}yes{% else %}no{% endif %}{% endmacro %}{{ f() }}
{% macro a() %}A{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}
{% for x in [1, 2] %}{% macro f() %}{{ x }}{% endmacro %}{{ f() }}{% endfor %}
{% macro f(d) %}{% for k in d %}{% if k == 'a' %}{% continue %}{% endif %}{{ k }}{% endfor %}{% endmacro %}{{ f(d) }}
{% macro f(x) -%}\n  {{ x }}\n{%- endmacro %}{{ f(1) }}
{% macro f(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ f(*[1, 2]) }}{{ f(**{'a': 3, 'b': 4}) }}{{ f(1, **{'b': 2}) }}
{% macro f(loop) %}{{ loop }}{% endmacro %}{{ f(3) }}
{{ f is defined }}{% macro f() %}late{% endmacro %}{{ f() }}
# filter and generation blocks
{% filter upper %}text {{ text }}{% endfilter %}
{% filter replace('a', 'b')|trim %} banana {% endfilter %}|
{% filter indent(2) %}a\nb{% endfilter %}
a{% generation %}b{{ text }}{% endgeneration %}c
{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% set x = 1 %}{% endgeneration %}{% endif %}{% endfor %}{{ x }}
{%- generation -%}  a  {%- endgeneration -%}  b
{% for x in [1, 2] %}{% generation %}{{ loop.index }}{% endgeneration %}{% endfor %}
# attributes and items
{{ messages[0].role }} {{ messages[0]['content'] }} {{ messages[-1].role }} {{ messages.0.role }} {{ messages[9] }}| {{ messages[-9] }}|
{{ d.a }} {{ d['a'] }} {{ d.get('a') }} {{ d.get('z') }} {{ d.get('z', 'def') }} {{ d.z }}| {{ d['items'] }} {{ d.get('items') }}
{{ d.items()|list }} {{ d['1'] }} {{ d[1] }}|
{{ text[0] }} {{ text[-1] }} {{ text[99] }}| {{ text.nope }}|
{{ text['upper']() }} {{ 'x'.upper is defined }} {{ [].append is defined }} {{ {}.update }}|
{{ text.__class__ }}| {{ [].__len__ }}|
{{ nothing.x }}| {{ 5 .x }}| {{ (5).foo is defined }}
{{ accents[0] }} {{ accents[-1] }} {{ messages[1].content[2:5] }} {{ messages[1].content[10] }}
{{ d['a', 'b'] }}|
{% set key = 'role' %}{{ messages[0][key] }}
{{ (messages|first).role }} {{ (messages|last)['role'] }}
{{ missing is defined }} {{ messages[0].missing is defined }} {{ messages[0].missing is none }}
{{ tools[0].function.parameters.properties.a.type }}
# slices
{{ 'abcdef'[1:3] }} {{ 'abcdef'[:2] }} {{ 'abcdef'[2:] }} {{ 'abcdef'[:] }} {{ 'abcdef'[-2:] }} {{ 'abcdef'[:-2] }} {{ 'abcdef'[10:] }}|
{{ 'abcdef'[::2] }} {{ 'abcdef'[::-1] }} {{ 'abcdef'[4:1:-1] }} {{ 'abcdef'[-1:-4:-2] }} {{ 'abcdef'[5:2] }}| {{ 'abcdef'[1:100:3] }}
{{ [1,2,3,4][1:] }} {{ [1,2,3,4][::-1] }} {{ [1,2,3,4][:-1] }} {{ (1,2,3)[1:] }} {{ range(10)[2:8:3]|list }} {{ range(5)[::-1] }}
{{ 'héllo wörld'[1:4] }} {{ 'héllo'[::-1] }} {{ '世界你好'[1:3] }} {{ '😀é世a'[::-2] }}
{{ 'abcdef'[10::-1] }} {{ [1, 2, 3][99:0:-1] }} {{ 'abc'[-9::-1] }}| {{ 'abc'[-9:2] }} {{ 'abc'[:-9:-1] }} {{ [1, 2, 3][5:9:-1] }}
{{ 'abc'[none:none] }} {{ 'abc'[true:] }} {{ text[1:][0] }}
# tests
{{ missing is defined }}{{ missing is undefined }}{{ text is defined }}{{ nothing is none }}{{ text is not none }}
{% for v in [1, 1.5, 'a', none, true, [], (), {}, missing, range(2)] %}{{ v is string }}{{ v is number }}{{ v is integer }}{{ v is float }}{{ v is boolean }}{{ v is mapping }}{{ v is iterable }}{{ v is sequence }}{{ v is callable }} {% endfor %}
{{ true is true }}{{ 1 is true }}{{ false is false }}{{ 0 is false }}{{ none is none }}
{{ 2 is even }}{{ 2 is odd }}{{ 9 is divisibleby 3 }}{{ 9 is divisibleby(2) }}{{ 3.0 is odd }}
{{ 1 is eq 1 }}{{ 1 is equalto 2 }}{{ 1 is ne 2 }}{{ 1 is lt 2 }}{{ 1 is le 1 }}{{ 2 is gt 1 }}{{ 2 is ge 3 }}{{ 2 is greaterthan 1 }}{{ 2 is lessthan 1 }}
{{ 1 is in [1, 2] }}{{ 1 is not in [1, 2] }}{{ 'a' is in 'abc' }}
{{ 'abc' is lower }}{{ 'ABC' is upper }}{{ 'aBc' is lower }}{{ '123' is lower }}{{ 'é' is lower }}{{ '' is upper }}
{{ none is sameas none }}{{ true is sameas true }}{{ 1 is sameas true }}{{ d is sameas d }}{{ [] is sameas [] }}
{{ 'upper' is filter }}{{ 'nope' is filter }}{{ 'odd' is test }}{{ 'nope' is test }}
{{ dict is callable }}{{ text.upper is callable }}{{ namespace() is mapping }}{{ namespace() is iterable }}
{{ d.items() is sequence }}{{ d.items() is iterable }}{{ [1]|map('string') is sequence }}{{ [1]|map('string') is iterable }}
{{ 1 is defined and 2 is defined }}{{ not 1 is defined }}{{ 1 + 1 is number }}{{ 'a' ~ 'b' is string }}
{{ 'a'|e is escaped }}{{ 'a' is escaped }}
{% if messages[0].role is defined and messages[0].role is string and messages[0].role == 'system' %}ok{% endif %}
# string filters
[{{ '  x '|trim }}] [{{ 'xxaxx'|trim('x') }}] [{{ 5|trim }}] [{{ '\u00a0\u3000a'|trim }}]
{{ text|lower }} {{ text|upper }} {{ 'hELLO wORLD'|capitalize }} {{ "foo-bar (baz) it's x_y"|title }} {{ 5|upper }}
{{ accents|upper }} {{ accents|lower }} {{ accents|capitalize }} {{ accents|title }}
{{ 'banana'|replace('a', 'o') }} {{ 'banana'|replace('a', 'o', 2) }} {{ 'abc'|replace('', '-') }} {{ 'abc'|replace('', '-', 2) }} {{ 121|replace(1, 'x') }}
{{ html|e }} {{ html|escape }} {{ html|safe }} {{ html|e|e }} {{ (html|safe) + '<' }} {{ '<' + ('&'|e) }} {{ ('<'|e) ~ '<' }} {{ 5|e }}
{{ 'a\\nb\\n\\nc'|indent }}|{{ 'a\\nb'|indent(2, true) }}|{{ 'a\\n\\nb'|indent(2, blank=true) }}|{{ 'a\\nb\\n'|indent('> ') }}|{{ lines|indent(1) }}|{{ ''|indent }}|{{ 'a\\r'|indent }}|
{{ text|wordcount }} {{ "it's a-b c_d  é世 ²"|wordcount }} {{ ''|wordcount }}
{{ 'x'|center(5) }}| {{ 'ab'|center(5) }}| {{ 'abcd'|center(7) }}| {{ 'abc'|center(2) }}|
{{ 5|string ~ 'x' }} {{ [1]|string|length }}
# sequence filters
{{ 'abc'|length }} {{ 'aé世'|length }} {{ [1, 2]|length }} {{ d|length }} {{ missing|length }} {{ range(5)|length }} {{ d.items()|length }} {{ [1]|count }}
{{ 'aé'|list }} {{ d|list }} {{ (1, 2)|list }} {{ missing|list }}
{{ [1, 2]|first }} {{ 'xy'|first }} {{ d|first }} {{ []|first }}| {{ [1, 2]|last }} {{ 'xé'|last }} {{ d|last }} {{ []|last }}| {{ missing|first }}| {{ missing|last }}|
{{ [1, 'a', none]|join }} {{ [1, 2]|join(', ') }} {{ 'abc'|join('-') }} {{ people|join(', ', attribute='name') }} {{ d|join(',') }} {{ []|join('x') }}| {{ missing|join }}| {{ [1, 2]|join(5) }} {{ people|join(',', 'address.city') }}
{{ 'abc'|reverse }} {{ [1, 2, 3]|reverse|list }} {{ 'aé'|reverse }} {{ d|reverse|list }} {{ [1,2]|select|reverse }}
{{ numbers|sort }} {{ numbers|sort(reverse=true) }} {{ ['b', 'A', 'c', 'a']|sort }} {{ ['b', 'A', 'c', 'a']|sort(case_sensitive=true) }} {{ people|sort(attribute='age')|map(attribute='name')|list }} {{ people|sort(true, attribute='age')|map(attribute='name')|list }}
{{ people|sort(attribute='age,name')|map(attribute='name')|list }} {{ [(2, 'a'), (1, 'b'), (1, 'a')]|sort }} {{ [[2], [1, 5], [1]]|sort }} {{ d|sort }}
{{ [none, none]|sort }} {{ [{}, {}]|sort }}
{{ d|dictsort }} {{ d|dictsort(true) }} {{ d|dictsort(by='value') }} {{ d|dictsort(reverse=true) }}
{% for k, v in d|dictsort %}{{ k }}{{ v }}{% endfor %}
{{ [1, 2, 1, 1.0, 'a', 'A', true]|unique|list }} {{ ['a', 'A', 'b']|unique(true)|list }} {{ people|unique(attribute='age')|map(attribute='name')|list }}
{{ numbers|min }} {{ numbers|max }} {{ numbers|sum }} {{ []|min }}| {{ ['b', 'A']|min }} {{ ['b', 'A']|max }} {{ people|max(attribute='age') }} {{ people|sum(attribute='age') }} {{ []|sum }} {{ [[1], [2]]|sum(start=[0]) }} {{ [1.5, 2]|sum }} {{ 'bca'|max }} {{ people|sum('age', 10) }}
{{ ['a', 'b']|map('upper')|list }} {{ people|map(attribute='address.city')|list }} {{ people|map(attribute='address.city', default='?')|list }} {{ [[1, 2], [3]]|map('first')|list }} {{ ['a b', 'c']|map('replace', ' ', '-')|join(',') }} {{ [[1, 2], [3, 4]]|map(attribute=1)|list }} {{ nothing|map('upper')|list }}
{{ [' a ', 'b ']|map('trim')|list }} {{ [1.5, '2', 'x']|map('int')|list }} {{ ['a', none]|map('default', 'z', true)|list }} {{ [[2, 1]]|map('sort')|list }}
{{ numbers|select('odd')|list }} {{ numbers|reject('odd')|list }} {{ [0, 1, '', 'a']|select|list }} {{ [0, 1, '']|reject|list }} {{ numbers|select('gt', 1)|list }} {{ numbers|select('in', [1, 2])|list }} {{ ['a', 1]|select('string')|list }}
{{ people|selectattr('age', 'eq', 30)|map(attribute='name')|list }} {{ people|selectattr('address')|list|length }} {{ people|rejectattr('address')|map(attribute='name')|list }} {{ people|selectattr('address.city', 'equalto', 'Oslo')|list|length }} {{ messages|selectattr('role', '==', 'user')|list|length }} {{ people|rejectattr('age', '>=', 30)|list|length }} {{ people|selectattr('address', 'defined')|list|length }}
{{ d|items|list }} {% for k, v in d|items %}{{ k }}{% endfor %} {{ missing|items|list }}
{{ (messages|selectattr('role', 'equalto', 'user')|list)[-1].content|length }}
# value filters
{{ missing|default('d') }} {{ ''|default('d') }}| {{ ''|default('d', true) }} {{ none|default('d') }} {{ none|d('d', boolean=true) }} {{ missing|default }}| {{ 0|d(5, true) }} {{ d.zz|default([]) }}
{{ '42'|int }} {{ 'x'|int }} {{ 'x'|int(7) }} {{ '4.7'|int }} {{ 4.7|int }} {{ -4.7|int }} {{ '0x1f'|int(0, 16) }} {{ 'ff'|int(base=16) }} {{ ' 12 '|int }} {{ '1_000'|int }} {{ none|int }} {{ true|int }} {{ []|int(3) }} {{ '-5'|int }} {{ '1e3'|int }} {{ '0b11'|int(0, 2) }} {{ ''|int }} {{ 'inf'|int(8) }}
{{ '1.5'|float }} {{ 'x'|float }} {{ 3|float }} {{ '1e3'|float }} {{ none|float(2.5) }} {{ ' 2 '|float }} {{ 'inf'|float }} {{ 'nan'|float }} {{ '0x10'|float }} {{ true|float }}
{{ 2.5|round }} {{ 3.5|round }} {{ 2.567|round(2) }} {{ 2.1|round(method='ceil') }} {{ 2.9|round(0, 'floor') }} {{ 5|round }} {{ 2.55|round(1, 'ceil') }} {{ 1.005|round(2) }} {{ -2.5|round }} {{ 42|round(1, 'floor') }}
# tojson
{{ d|tojson }} {{ messages|tojson }}
{{ mixed|tojson }} {{ 'é"\\n\\t\\b\\f\\r\\x01\\x7f/<>&\\'😀'|tojson }} {{ none|tojson }} {{ 1.0|tojson }} {{ (1, 2)|tojson }} {{ []|tojson }} {{ {}|tojson }} {{ true|tojson }} {{ 1e100|tojson }}
{{ tools|tojson(indent=4) }}
{{ d|tojson(indent=0) }} {{ [[], {}, [1]]|tojson(indent=2) }} {{ [1]|tojson(indent='--') }}
{{ d|tojson(separators=(',', ':')) }} {{ d|tojson(indent=1, separators=(' ,', ' : ')) }} {{ d|tojson(sort_keys=true) }} {{ 'é😀\\x7f'|tojson(ensure_ascii=true) }} {{ 'é'|tojson(true) }}
{{ {1: 2, 1.5: 3, true: 4, none: 5}|tojson }} {{ '1e400'|float|tojson }} {{ 'nan'|float|tojson }} {{ [1]|tojson(indent=none) }}
{{ d|tojson|length }} {{ ('<'|e)|tojson }}
# string methods
{{ 'a b  c'.split() }} {{ 'a,b,,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ ' a  b '.split() }} {{ 'a b c'.split(none, 1) }} {{ 'abc'.split('x') }} {{ ''.split() }} {{ ''.split(',') }} {{ 'a--b'.split('--')[-1] }} {{ ' a  b  c '.split(maxsplit=1) }} {{ 'a,b'.split(sep=',') }} {{ 'a b'.split(' ', 0) }}
{{ 'a,b,c'.rsplit(',', 1) }} {{ 'a b  c '.rsplit() }} {{ ' a  b  c '.rsplit(none, 1) }} {{ 'aXXbXXc'.rsplit('XX', 1)[0] }} {{ 'aaa'.rsplit('aa') }}
{{ lines.splitlines() }} {{ lines.splitlines(true) }} {{ 'a\\x0bb\\x0cc\\x1cd\\x85e\\u2028f'.splitlines() }} {{ ''.splitlines() }} {{ 'a\\n'.splitlines() }}
[{{ ' x '.strip() }}] [{{ 'xxaxx'.strip('x') }}] [{{ 'xyaxy'.lstrip('yx') }}] [{{ 'abcé世'.rstrip('世é') }}] [{{ ' x '.lstrip() }}] [{{ ' x '.rstrip() }}] [{{ '\\n x \\n'.strip('\\n') }}] [{{ 'a'.strip(none) }}]
{{ 'abc'.startswith('a') }} {{ 'abc'.startswith('b', 1) }} {{ 'abc'.startswith(('x', 'a')) }} {{ 'abc'.endswith('c') }} {{ 'abc'.endswith('b', 0, 2) }} {{ 'abc'.endswith(('x',)) }} {{ 'abc'.startswith('') }} {{ ''.startswith('a') }}
{{ 'aBc'.upper() }} {{ 'aBc'.lower() }} {{ "they're bill's".title() }} {{ 'aBC d'.capitalize() }} {{ 'aBc'.swapcase() }} {{ accents.title() }} {{ accents.upper() }} {{ 'ΑΣ ΑΣΑ'.lower() }}
{{ 'banana'.replace('a', 'o') }} {{ 'banana'.replace('an', '', 1) }} {{ 'abc'.replace('', '.') }} {{ 'aaa'.replace('aa', 'b') }}
{{ 'banana'.find('an') }} {{ 'banana'.rfind('an') }} {{ 'banana'.find('x') }} {{ 'banana'.find('an', 2) }} {{ 'banana'.find('an', 2, 4) }} {{ 'héllo'.find('l') }} {{ 'banana'.index('n') }} {{ 'banana'.rindex('n') }} {{ 'banana'.count('an') }} {{ 'aaa'.count('aa') }} {{ 'abc'.count('') }} {{ 'abc'.find('') }} {{ 'abc'.rfind('') }} {{ 'abc'.find('', 9) }} {{ 'banana'.find('n', -2) }} {{ 'banana'.count('a', 2) }}
{{ ', '.join(['a', 'b']) }} {{ ''.join('abc') }} {{ '-'.join(d) }} {{ '-'.join([]) }}| {{ '-'.join(['é']|map('upper')) }}
{{ '12'.isdigit() }}{{ '1²'.isdigit() }}{{ ''.isdigit() }}{{ '1.2'.isdigit() }}{{ 'aé世'.isalpha() }}{{ 'a1'.isalpha() }}{{ 'a1é½'.isalnum() }}{{ ' \\t\\u00a0'.isspace() }}{{ 'AB1'.isupper() }}{{ 'ab'.islower() }}{{ 'aB'.islower() }}{{ '12'.isdecimal() }}{{ '²'.isdecimal() }}{{ 'abc'.isascii() }}{{ 'é'.isascii() }}
{{ 'prefix-x'.removeprefix('prefix-') }} {{ 'x.txt'.removesuffix('.txt') }} {{ 'x'.removeprefix('y') }} {{ 'x'.removesuffix('') }}
{{ '7'.zfill(3) }} {{ '-7'.zfill(4) }} {{ '+x'.zfill(5) }} {{ 'abc'.zfill(2) }} {{ 'a'.ljust(3) }}| {{ 'a'.rjust(3, '.') }} {{ 'a'.center(4, '*') }} {{ 'ab'.center(5, 'é') }}
{{ 'a=b=c'.partition('=') }} {{ 'a=b=c'.rpartition('=') }} {{ 'abc'.partition('x') }} {{ 'abc'.rpartition('x') }}
{{ '{} and {}'.format(1, 'x') }} {{ '{1}{0}'.format('a', 'b') }} {{ '{x}-{{y}}'.format(x=[1]) }} {{ 'plain'.format() }}
# list and dict methods
{{ [1, 2, 1].count(1) }} {{ [1, 2, 3].index(2) }} {{ (1, 2, 1).count(1) }} {{ (5, 6).index(6) }} {{ [1].copy() }} {{ [1, 2, 1].index(1, 1) }}
{{ d.keys()|list }} {{ d.values()|list }} {{ d.get('b') }} {{ d.copy() == d }} {{ {'a': 1}.items()|list }} {{ {'a': none}.get('a', 5) }}
{{ dict(a=1, b=2) }} {{ dict({'a': 1}, a=2) }} {{ dict([('x', 1), ['y', 2]]) }} {{ dict(d.items()) == d }} {{ dict() }}
{{ {'x': d}.x.a }} {{ d.keys() == dict(d).keys() }}
# functions
{{ range(3)|list }} {{ range(2, 5)|list }} {{ range(5, 0, -2)|list }} {{ range(0)|list }} {{ range(-3)|list }} {{ range(10)[3] }} {{ range(10)[-1] }}
{{ strftime_now('%Y-%m-%d') }} {{ strftime_now('%d %b %Y') }} {{ strftime_now('%A, %B %d %Y %H:%M:%S %j %U %p %I %y %%') }} {{ strftime_now('') }}| {{ strftime_now('%Z%z|%f') }}
{{ strftime_now is defined }} {{ raise_exception is defined }} {{ raise_exception is callable }}
{% if strftime_now is defined %}{% set date = strftime_now('%d %b %Y') %}{% endif %}{{ date }}
# names
{{ false }}{{ _private }}|{% set _x = 1 %}{{ _x }}
{% set if_ = 1 %}{{ if_ }}{% set über = 2 %}{{ über }}
{% set text = 'shadow' %}{{ text }}{% for i in [1] %}{{ text }}{% endfor %}
{% set messages = messages[1:] %}{{ messages|length }}
{{ loop }}|{{ caller }}|
{% set range = 5 %}{{ range }}
# errors while compiling
{% if x %}
{% endif %}
{% for x in y %}
{% for x %}{% endfor %}
{{ x
{{ }}
{% %}
{% nonsense %}
{{ 'abc }}
{# abc
{% raw %} abc
{{ x | nofilter }}
{{ x is notest }}
{{ 1 +
{{ (1 }}
{{ 1) }}
{{ [1 }}
{{ {'a' 1} }}
{{ a b }}
{% set 1 = 2 %}
{% set true = 2 %}
{% set x.y.z = 2 %}
{% for a.b in c %}{% endfor %}
{% for loop in [1] %}{% endfor %}
{% for x in [1] %}{% set loop = 2 %}{% endfor %}
{% macro f(a=1, b) %}{% endmacro %}
{% macro %}{% endmacro %}
{{ f(a=1, 2) }}
{{ f(a=1, a=2) }}
{{ x is defined is defined }}
{% break %}
{% for x in [1] %}{% generation %}{% break %}{% endgeneration %}{% endfor %}
{% macro f() %}{% continue %}{% endmacro %}
{% if x %}{% else %}{% elif y %}{% endif %}
{% set x %}abc
{{ x ! y }}
{{ a.'b' }}
{% else %}
{% call 5 %}{% endcall %}
{{ 007 }}
{{ '\\x4' }}
{{ x[] }}
{% if %}{% endif %}
{{ x..y }}
{% generation %}
{{ not }}
{% with a %}{% endwith %}
{{ & }}
{% set ns.a.b = 1 %}
# errors while rendering
{{ raise_exception('roles must alternate: ' ~ 5) }}
{% if messages[0].role != 'user' %}{{ raise_exception('First message must be from the user') }}{% endif %}
{{ missing.attribute }}
{{ missing['x'] }}
{{ missing() }}
{{ missing + 1 }}
{{ 1 + missing }}
{{ missing < 1 }}
{{ -missing }}
{{ messages[0].missing.deeper }}
{{ nothing.x.y }}
{{ nothing[1:] }}
{{ nothing + 'a' }}
{{ 'a' + 1 }}
{{ 'a' + none }}
{{ 1 + 'a' }}
{{ [1] + (2,) }}
{{ 1 < 'a' }}
{{ none < none }}
{{ {} < {} }}
{{ 1 / 0 }}
{{ 1 // 0 }}
{{ 1 % 0 }}
{{ 1.5 % 0 }}
{{ 0 ** -1 }}
{{ -'a' }}
{{ 1 in 5 }}
{{ 1 in 'abc' }}
{{ 'a' in none }}
{% for x in 5 %}{% endfor %}
{% for x in none %}{% endfor %}
{% for a, b in [1] %}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{% endfor %}
{% set a, b = [1] %}
{% set d.x = 1 %}
{% set missing.x = 1 %}
{{ namespace(_x=1) }}
{% set ns = namespace() %}{% set ns._x = 1 %}
{{ [].append(1) }}
{{ {}.update({}) }}
{{ messages[0].pop('role') }}
{{ ''.__class__.__mro__ }}
{{ text.__class__.x }}
{{ text() }}
{{ 5() }}
{{ text.nope() }}
{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}
{% macro f(a) %}{% endmacro %}{{ f(b=1) }}
{% macro f(a) %}{% endmacro %}{{ f(1, a=1) }}
{% if nothing is none %}{{ 1|nofilter }}{% endif %}
{{ [1, 'a']|sort }}
{{ [1, 'a']|min }}
{{ [{}]|unique|list }}
{{ 5|length }}
{{ [1]|map('upper')|length }}
{{ none|list }}
{{ 5|join }}
{{ missing|tojson }}
{{ range(3)|tojson }}
{{ {(1,): 2}|tojson }}
{{ [1]|map('nofilter')|list }}
{{ [1]|map|list }}
{{ [1]|select('notest')|list }}
{{ {[]: 1} }}
{{ {}|dictsort(by='x') }}
{{ 5|dictsort }}
{{ 'abc'.split('') }}
{{ 'abc'.index('x') }}
{{ 'abc'.join([1]) }}
{{ 'abc'.upper(1) }}
{{ 'abc'.find() }}
{{ 'abc'.split(',', 'x') }}
{{ text['a':] }}
{{ 'abc'[::0] }}
{{ [1].index(5) }}
{{ 5 is divisibleby 0 }}
{{ none is odd }}
{{ 1 is defined(5) }}
{{ range() }}
{{ range('a') }}
{{ range(1, 2, 0) }}
{{ dict(5) }}
{{ dict([1]) }}
{{ 'x'.startswith(1) }}
{{ [1, 2]|first(3) }}
{{ strftime_now() }}
{{ 'x'|indent('a', 1, 2, 3) }}
{{ 5|indent }}
{{ loop.index }}
{% for x in [1] %}{{ loop(x) }}{% endfor %}
{% for x in [1] %}{{ loop.cycle() }}{% endfor %}
{{ 2|round(method='up') }}
{{ 5 .upper() }}
{{ '{} {}'.format(1) }}
{{ '{'.format(1) }}
{{ '}'.format(1) }}
{{ '{x}'.format(1) }}
{{ (none|items)|list }}
{{ d.items()[0].x }}
{{ 'inf'|float|int }}
""".strip().split("\n")


def escapes(line):
    """The template that a line stands for: \\n is a line feed, \\\\ a backslash, and so on."""
    out, i = [], 0
    while i < len(line):
        if line[i] == "\\" and i + 1 < len(line):
            c = line[i + 1]
            if c in "ntr\\":
                out.append({"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}[c])
                i += 2
                continue
            if c == "u":
                out.append(chr(int(line[i + 2 : i + 6], 16)))
                i += 6
                continue
        out.append(line[i])
        i += 1
    return "".join(out)


def constructs():
    cases, section = [], None
    for line in CONSTRUCTS:
        if line.startswith("# "):
            section = line[2:]
            continue
        template = escapes(line)
        cases.append({"section": section, "template": template, **render(template, VARIABLES)})
    return {"now": NOW, "variables": VARIABLES, "cases": cases}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": 'The "weather" of a place.',
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}
CALL = {"id": "call00001", "type": "function", "function": {"name": "weather", "arguments": {"place": "Zürich", "days": 2}}}
SYSTEM = {"role": "system", "content": "Answer in one line."}
ANSWER = {"role": "tool", "name": "weather", "tool_call_id": "call00001", "content": '{"sky": "grey"}'}
CONVERSATIONS = [
    {"messages": [user("Hi")], "add_generation_prompt": True},
    {"messages": [user("Hi"), assistant("Hello!")]},
    {"messages": [SYSTEM, user("Hi"), assistant("Hello!"), user("Bye")], "add_generation_prompt": True},
    {"messages": [SYSTEM, user("  padded \n"), assistant("\nso is this  "), user("ü 世界 😀 <|im_end|></s>[INST]"), assistant("ok")]},
    {"messages": [user("Rain?"), assistant("", tool_calls=[CALL]), ANSWER], "tools": [WEATHER], "add_generation_prompt": True},
    {"messages": [SYSTEM, user("Rain?"), assistant("Looking.", tool_calls=[CALL, CALL]), ANSWER, ANSWER, assistant("Grey."), user("Thanks")], "tools": [WEATHER, WEATHER], "add_generation_prompt": True},
    {"messages": [user("Why?"), assistant("<think>\nHm.\n</think>\n\nBecause."), user("Why?"), assistant("<think>\nHm?\n</think>\n\nSo.")]},
    {"messages": [user("Why?"), assistant("Because.", reasoning_content="Hm."), user("And?")], "add_generation_prompt": True, "enable_thinking": False},
    {"messages": [assistant("I start."), user("So do I."), user("Twice.")]},
    {"messages": [{"role": "narrator", "content": "Once"}, user("upon a time")], "documents": [{"title": "T", "text": "body"}], "add_generation_prompt": True},
]


def conversations():
    templates = {path.stem: path.read_text() for path in sorted(FOLDER.glob("*.jinja"))}
    variables = [{"bos_token": "<s>", "eos_token": "</s>", "tools": None, "documents": None, "add_generation_prompt": False, **c} for c in CONVERSATIONS]
    cases = [
        {"template": name, "conversation": i, **render(template, v)}
        for name, template in templates.items()
        for i, v in enumerate(variables)
    ]
    return {"now": NOW, "conversations": variables, "cases": cases}


def main():
    for name, made in (("constructs", constructs()), ("conversations", conversations())):
        text = json.dumps(made, ensure_ascii=False, indent=1)
        (FOLDER / f"{name}.json").write_text(text + "\n")
        failed = sum("error" in case for case in made["cases"])
        print(f"{name}: {len(made['cases'])} cases, {failed} of them errors")


if __name__ == "__main__":
    main()
