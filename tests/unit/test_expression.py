"""Expressions: what the language takes, what it refuses and in which words, and its one canonical text."""

import inspect
import re
import sys
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from midstream_api.expression import FUNCTIONS, ExpressionError, parse
from midstream_api.scanner import tokens
from midstream_api.syntax import (
    Binary,
    Boolean,
    Call,
    Logic,
    Node,
    Number,
    Reference,
    Text,
    Unary,
    printed,
)

TAKEN = {
    # As users of the older API write them.
    "anomaly-housing.outputs[0][0] < 100.0": "anomaly-housing.outputs[0][0] < 100",
    "housing_model.outputs[0][0] < 100.0": "housing_model.outputs[0][0] < 100",
    "rf-1.5.outputs [0] [0]<1": "rf-1.5.outputs[0][0] < 1",
    "3d-model.outputs[0][0] < 1": "3d-model.outputs[0][0] < 1",
    "not.outputs[0][0] < 1": "not.outputs[0][0] < 1",
    "m.outputs.outputs[0][0] < 1": "m.outputs.outputs[0][0] < 1",
    # References.
    "out.variable[0] < 1500000.0": "out.variable[0] < 1500000",
    "in.flag": "in.flag",
    'in["flag"]': "in.flag",
    "in [ 'flag' ]": "in.flag",
    'out["my-field"][1]==2': 'out["my-field"][1] == 2',
    'out["a/b:0"] == 2': 'out["a/b:0"] == 2',
    "out.dense_1:0[0] == 2": "out.dense_1:0[0] == 2",
    "out.layer.0.bias[0] == 2": "out.layer.0.bias[0] == 2",
    'out["1st"] == 2': 'out["1st"] == 2',
    'out["a..b"] == 2': 'out["a..b"] == 2',
    "out.outputs[0] == 2": "out.outputs[0] == 2",
    "in.a.outputs[0] == 2": "in.a.outputs[0] == 2",
    "steps.pre-process.out[0][1] < 2": "steps.pre-process.out[0][1] < 2",
    "steps.in.out.out.x[1] < 2": "steps.in.out.out.x[1] < 2",
    'steps.a.out["my-field"] < 2': 'steps.a.out["my-field"] < 2',
    # A minus behind a field or between spaces is one; inside a model's name it is not.
    "in.a-housing.outputs[0][0]<3": "in.a - housing.outputs[0][0] < 3",
    "a.outputs[0][0] - b.outputs[0][0] < 3": "a.outputs[0][0] - b.outputs[0][0] < 3",
    "a.outputs[0][0]-b-c.outputs[0][0] < 3": "a.outputs[0][0] - b-c.outputs[0][0] < 3",
    "in.a-1<3": "in.a - 1 < 3",
    # Numbers.
    "in.a < 1e6": "in.a < 1000000",
    "in.a < 0.10": "in.a < 0.1",
    "in.a < 1.5E-3": "in.a < 0.0015",
    "in.a < 1.0e-7": "in.a < 1e-07",
    "in.a < 1e20": "in.a < 1e+20",
    "in.a < 18446744073709551615": "in.a < 18446744073709551615",
    "in.a < 9007199254740993": "in.a < 9007199254740993",
    "in.a < -5": "in.a < -5",
    "in.a < - 5": "in.a < -5",
    "in.a < -(5)": "in.a < -5",
    "in.a--5 < -0.0": "in.a - -5 < 0",
    "-in.a < --in.b": "-in.a < --in.b",
    # Texts.
    "in.a == 'it\\'s'": 'in.a == "it\'s"',
    'in.a == "\\u00e9\\ud83d\\ude00\\n"': 'in.a == "é😀\\n"',
    'in.a == "\\\\\\/\\b\\f\\r\\t"': 'in.a == "\\\\/\\b\\f\\r\\t"',
    # How strongly operators bind.
    "in.a<1||in.b<2&&in.c<3": "in.a < 1 or in.b < 2 and in.c < 3",
    "(in.a or in.b) and in.c": "(in.a or in.b) and in.c",
    "(in.a and in.b) and in.c": "(in.a and in.b) and in.c",
    "in.a and in.b and in.c": "in.a and in.b and in.c",
    "! in.a == in.b": "not in.a == in.b",
    "!(in.a && !in.b)": "not (in.a and not in.b)",
    "not not in.a": "not not in.a",
    "(not in.a) == in.b": "(not in.a) == in.b",
    "(in.a < 1) == (in.b < 2)": "(in.a < 1) == (in.b < 2)",
    "in.a-in.b-in.c < 1": "in.a - in.b - in.c < 1",
    "in.a-(in.b-in.c) < 1": "in.a - (in.b - in.c) < 1",
    "(in.a+in.b)*in.c < 1": "(in.a + in.b) * in.c < 1",
    "in.a+(in.b*in.c) < 1": "in.a + in.b * in.c < 1",
    "in.a/(in.b*in.c) % 2 < 1": "in.a / (in.b * in.c) % 2 < 1",
    "-in.a * -in.b < 1": "-in.a * -in.b < 1",
    "-(in.a + 1) < 1": "-(in.a + 1) < 1",
    "((((in.a))))<((1))": "in.a < 1",
    # Functions and layout.
    "any( out.x>3 ) and max( in.a,in.b , 1 ) < 5": "any(out.x > 3) and max(in.a, in.b, 1) < 5",
    "contains(in.a, 'x')": 'contains(in.a, "x")',
    "\n\tout.a\r\n  <\n1 ": "out.a < 1",
    "in.a == true or in.b != false": "in.a == true or in.b != false",
}


@pytest.mark.parametrize(("text", "canonical"), TAKEN.items(), ids=TAKEN)
def test_an_expression_has_one_canonical_text(text: str, canonical: str) -> None:
    """However it was written; the canonical text means the same and stays as it is."""
    expression = parse(text)
    assert str(expression) == canonical
    again = parse(canonical)
    assert again == expression
    assert hash(again) == hash(expression)
    assert str(again) == canonical
    assert expression.text == text


HOW = (
    "in.<field>, out.<field>, steps.<step>.out[0] or <model>.outputs[0][0]; "
    'a name with - or / is quoted: out["my-field"]'
)

REFUSED = {
    "": "column 1: the expression is empty",
    " \n ": "column 1: the expression is empty",
    "1 < 2": f"column 3: it reads no value of a row; values are {HOW}",
    "true": f"column 1: it reads no value of a row; values are {HOW}",
    "in.x + 1": "column 6: in.x + 1 is a value, not a condition; compare it, as in out.variable[0] < 100",
    "-in.x": "column 1: -in.x is a value, not a condition; compare it, as in out.variable[0] < 100",
    "sum(in.x)": "column 1: sum(in.x) is a value, not a condition; compare it, as in out.variable[0] < 100",
    # Names.
    "housing_model < 3": f"column 1: 'housing_model' is not known; values are {HOW}",
    "input.x < 3": f"column 1: 'input' is not known; values are {HOW}",
    "out_slow.price[0] > 1": "column 1: 'out_slow' is in answers what a challenger gives, which may come later; "
    "validations see what the champion gives: out.<field>",
    "out_slow[0] > 1": "column 1: 'out_slow' is in answers what a challenger gives, which may come later; "
    "validations see what the champion gives: out.<field>",
    "in.my-field < 3": f"column 7: 'field' is not known; values are {HOW}",
    "foo.outputs < 3": "column 12: an index is missing; write <model>.outputs[0][0]",
    "-.outputs[0][0] < 3": "column 2: unexpected '.'; a number has digits on both sides of its point, "
    'and an unusual name is quoted: in["a..b"]',
    "a-.outputs[0][0] < 3": "column 1: 'a-' is no name of a model",
    'm.outputs["x"] < 3': "column 11: an index is a whole number that counts from 0, not '\"x\"'",
    "in": 'column 3: in alone is no value; write in.<field> or in["my-field"]',
    "out < 3": 'column 5: out alone is no value; write out.<field> or out["my-field"]',
    "out[0][0] < 1": "column 5: out goes by names, not '0'; write out.<field> or out[\"my-field\"]",
    'in[""] < 1': 'column 4: in goes by names, not \'""\'; write in.<field> or in["my-field"]',
    "in. < 3": "column 4: the name of a field is missing behind 'in.'; one that does not begin with a letter or _ "
    'is quoted: in["1st"]',
    "steps.a.out.1st < 3": "column 13: the name of a field is missing behind 'steps.a.out.'; one that does not begin "
    'with a letter or _ is quoted: steps.a.out["1st"]',
    "steps.x": "column 1: a step's output is steps.<step>.out[0] or steps.<step>.out.<field>",
    "steps.Big.out[0] < 1": "column 1: a step's output is steps.<step>.out[0] or steps.<step>.out.<field>",
    "steps.a.outputs[0][0] < 1": "column 1: a step's output is steps.<step>.out[0] or steps.<step>.out.<field>",
    "steps.x.out < 3": "column 13: steps.x.out alone is no value; write steps.x.out[0], steps.x.out.<field> or "
    'steps.x.out["my-field"]',
    "in.a..b < 3": "column 5: unexpected '.'; a number has digits on both sides of its point, "
    'and an unusual name is quoted: in["a..b"]',
    "in.a::b < 3": "column 5: unexpected ':'; an unusual name is quoted: in[\"a::b\"]",
    # Indexes.
    "in.x[-1] < 3": "column 6: an index is a whole number that counts from 0, not '-'",
    "in.x[1.0] < 3": "column 6: an index is a whole number that counts from 0, not '1.0'",
    "in.x[in.y] < 3": "column 6: an index is a whole number that counts from 0, not 'in.y'",
    "in.x[1:2] < 3": "column 7: unexpected ':'; an unusual name is quoted: in[\"a::b\"]",
    "in.x[99999999999] < 3": "column 6: the index is too large; at most 2147483647",
    "in.x[0 < 3": "column 8: expected ']', found '<'",
    "max(in.a, in.b)[0] < 3": "column 16: expected an operator, found '['",
    # Numbers and texts.
    "in.x < 1e999": "column 8: the number is too large",
    "in.x < 18446744073709551616": "column 8: a whole number has at most 64 bits; write a larger one as 1e20",
    "in.x < .5": "column 8: unexpected '.'; a number has digits on both sides of its point, "
    'and an unusual name is quoted: in["a..b"]',
    "in.x < 1.": "column 9: unexpected '.'; a number has digits on both sides of its point, "
    'and an unusual name is quoted: in["a..b"]',
    "in.x < 0x10": "column 9: 'x10' stands directly behind a number",
    "in.x < 1_000": "column 9: '_000' stands directly behind a number",
    'in.x == "abc': 'column 9: the text that begins here is not closed; end it with " on the same line',
    "in.x == 'a\nb'": "column 9: the text that begins here is not closed; end it with ' on the same line",
    'in.x == "\\q"': "column 10: '\\q' is no escape; there are \\\" \\' \\\\ \\/ \\b \\f \\n \\r \\t and \\u0041",
    'in.x == "\\ud800"': "column 9: the text holds half a character (a lone surrogate)",
    'in.x == "\ud800"': "column 9: the text holds half a character (a lone surrogate)",
    # Operators.
    "in.a < in.b < in.c": "column 13: comparisons do not chain; write a < b and b < c, or put one in parentheses",
    "in.a == in.b == true": "column 14: comparisons do not chain; write a < b and b < c, or put one in parentheses",
    "in.x = 3": "column 6: unexpected '='; write == to compare",
    "in.x => 3": "column 6: unexpected '='; write >=",
    "in.x =< 3": "column 6: unexpected '='; write <=",
    "in.x & in.y": "column 6: unexpected '&'; write and",
    "in.x | in.y": "column 6: unexpected '|'; write or",
    "~in.x": "column 1: unexpected '~'; write not",
    "in.x ** 2 < 3": "column 7: expected a value, found '*'",
    "in.x == not in.y": "column 9: put parentheses around not: a == (not b)",
    "in.x AND in.y": "column 6: expected an operator, found 'AND'; write and",
    "in.x == True": "column 9: 'True' is not known; write true",
    "in.a <": "column 7: expected a value, found the end",
    "and in.a": "column 1: expected a value, found 'and'",
    "in.a < 3 if in.b": "column 10: expected an operator, found 'if'",
    "in.a == 'x' in.b": "column 13: expected an operator, found 'in.b'",
    "(in.x < 3": "column 10: expected ')', found the end",
    "in.x < 3)": "column 9: expected an operator, found ')'",
    "()": "column 2: expected a value, found ')'",
    # Functions.
    "avg(in.x) < 3": f"column 1: there is no function 'avg'; there are {', '.join(FUNCTIONS)}",
    "abs(in.x, 1) < 3": "column 1: abs takes 1 argument, not 2",
    "contains(in.x)": "column 1: contains takes 2 arguments, not 1",
    "min() < in.x": "column 1: min takes at least 1 argument, not 0",
    "min(in.x,) < 3": "column 10: expected a value, found ')'",
    "min < in.x": "column 1: min is a function; write min(…)",
    # What only looks like a character of the language.
    "\N{CYRILLIC SMALL LETTER ES}os < 3": "column 1: unexpected character U+0441 (CYRILLIC SMALL LETTER ES)",
    "in.x \N{LESS-THAN OR EQUAL TO} 3": "column 6: unexpected character U+2264 (LESS-THAN OR EQUAL TO)",
    "in.x < \N{FULLWIDTH DIGIT THREE}": "column 8: unexpected character U+FF13 (FULLWIDTH DIGIT THREE)",
    "in.x\N{NO-BREAK SPACE}< 3": "column 5: unexpected character U+00A0 (NO-BREAK SPACE)",
    "in.x == \N{LEFT DOUBLE QUOTATION MARK}a\N{RIGHT DOUBLE QUOTATION MARK}": "column 9: unexpected character U+201C "
    "(LEFT DOUBLE QUOTATION MARK)",
    "in.x < 3\0": "column 9: unexpected character U+0000",
    "in.x < 3; import os": "column 9: unexpected ';'",
    "__import__('os')": f"column 1: there is no function '__import__'; there are {', '.join(FUNCTIONS)}",
}


@pytest.mark.parametrize(("text", "message"), REFUSED.items(), ids=map(ascii, REFUSED))
def test_what_is_no_expression_is_refused_with_its_column(text: str, message: str) -> None:
    """The message says where it stands and what would be right."""
    with pytest.raises(ExpressionError) as refused:
        parse(text)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    {
        "("
        * 1_000_000: "column 1025: 1000000 characters are too many; an expression has at most 1024",
        "(" * 33 + "in.x" + ")" * 33: "column 33: more than 32 levels inside each other",
        "-" * 1000 + "in.x": "column 33: more than 32 levels inside each other",
        "!" * 1000 + "in.x": "column 33: more than 32 levels inside each other",
        "abs(" * 200 + "in.x": "column 129: more than 32 levels inside each other",
        "in.x"
        + "+1" * 500: "column 203: more than 200 values and operators; make it two validations",
        "min("
        + "1," * 500
        + "1) < in.x": "column 405: more than 200 values and operators; make it two validations",
        "9" * 1000: "column 1: the number is too large",
        "9" * 300: "column 1: a whole number has at most 64 bits; write a larger one as 1e20",
        "1e" + "9" * 1000: "column 1: the number is too large",
        "a-" * 500 + ".outputs": "column 1009: an index is missing; write <model>.outputs[0][0]",
        '"'
        + "\\"
        * 1001: 'column 1: the text that begins here is not closed; end it with " on the same line',
        "in.x[" + "9" * 1000: "column 6: the number is too large",
    }.items(),
    ids=lambda case: case[:12],
)
def test_a_hostile_text_is_refused_before_it_costs_much(text: str, message: str) -> None:
    """Length, depth and size are bounded, so that no text takes long or exhausts the stack."""
    with pytest.raises(ExpressionError) as refused:
        parse(text)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    "text",
    [
        "(" * 32 + "in.x" + ")" * 32,
        "not " * 32 + "in.x",
        "in.x < 0" + "+1" * 98,
        "in.x" + " or in.x" * 100,
        "-" * 32 + "in.x < " + "(" * 32 + "1" + ")" * 32,
    ],
    ids=lambda text: text[:12],
)
def test_an_expression_at_its_limits_can_be_worked_with(text: str) -> None:
    """Printing, hashing and comparing need little of the stack."""
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(len(inspect.stack()) + 500)
        expression = parse(text)
        assert parse(str(expression)) == expression
        assert hash(expression) == hash(parse(str(expression)))
    finally:
        sys.setrecursionlimit(limit)


def test_references_come_from_left_to_right() -> None:
    """With all that the text says of them, the column apart."""
    text = (
        'in.a[1] < max(out["b-c"], -m.outputs[2][3]) or not steps.s.out.d or steps.s.out[4][5] > 0'
    )
    assert parse(text).references() == [
        Reference("in", "", "a", (1,)),
        Reference("out", "", "b-c"),
        Reference("model", "m", 2, (3,)),
        Reference("steps", "s", "d"),
        Reference("steps", "s", 4, (5,)),
    ]
    assert [reference.column for reference in parse(text).references()] == [1, 15, 28, 52, 69]


names = st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_.:/-]{0,6}[A-Za-z0-9_]\Z") | st.text(
    st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6
)
models = st.from_regex(r"\A[A-Za-z0-9]([-._A-Za-z0-9]{0,8}[A-Za-z0-9])?\Z").filter(
    lambda name: name.partition(".")[0] not in {"in", "out", "steps"} or "." not in name
)
models = models.filter(lambda name: name not in {"in", "out", "steps"})
indexes = st.lists(st.integers(0, 2**31 - 1), max_size=3).map(tuple)
references: st.SearchStrategy[Node] = st.one_of(
    st.builds(Reference, st.sampled_from(["in", "out"]), st.just(""), names, indexes),
    st.builds(Reference, st.just("model"), models, st.integers(0, 99), indexes),
    st.builds(
        Reference,
        st.just("steps"),
        st.from_regex(r"\A[a-z]([-a-z0-9]{0,5}[a-z0-9])?\Z"),
        names | st.integers(0, 99),
        indexes,
    ),
)
numbers = st.integers(-(2**64) + 1, 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
leaves: st.SearchStrategy[Node] = st.one_of(
    references,
    numbers.filter(
        lambda value: isinstance(value, int) or not value.is_integer() or abs(value) >= 2**64
    ).map(Number),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6).map(Text),
    st.booleans().map(Boolean),
)


def above(below: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    several = st.lists(below, min_size=2, max_size=3).map(tuple)
    return st.one_of(
        st.builds(Unary, st.just("not"), below),
        st.builds(Unary, st.just("-"), below.filter(lambda node: not isinstance(node, Number))),
        st.builds(
            Binary,
            st.sampled_from(["+", "-", "*", "/", "%", "<", "<=", ">", ">=", "==", "!="]),
            below,
            below,
        ),
        st.builds(Logic, st.sampled_from(["and", "or"]), several),
        st.builds(Call, st.sampled_from(["abs", "all", "len"]), st.tuples(below)),
        st.builds(Call, st.sampled_from(["min", "max"]), several),
    )


nodes = st.recursive(leaves, above, max_leaves=12)


@settings(max_examples=200, deadline=None)
@given(nodes, references)
def test_every_tree_is_read_back_from_its_text(node: Node, reference: Node) -> None:
    """Parentheses stand where they are needed, and names are quoted where they have to be."""
    root = Binary("==", node, reference)
    assume(len(printed(root)) <= 1024)
    assert parse(printed(root)).root == root


pieces = st.sampled_from(sorted({token.text for text in TAKEN for token in tokens(text)}))


@settings(max_examples=300, deadline=None)
@given(st.lists(pieces, max_size=12), st.sampled_from(["", " "]))
def test_any_text_is_an_expression_or_refused(words: list[str], space: str) -> None:
    """No other error comes out, and what is taken has a canonical text."""
    text = space.join(words)
    try:
        expression = parse(text)
    except ExpressionError as error:
        column = error.column
    else:
        column = 1
        assert parse(str(expression)) == expression
    assert 1 <= column <= len(text) + 1


DOCUMENT = (Path(__file__).parents[2] / "docs" / "validations.md").read_text()


@pytest.mark.parametrize(
    "text", re.findall(r"^\| `(.+)` \|", DOCUMENT.partition("| Expression |")[2], re.MULTILINE)
)
def test_the_examples_of_the_page_are_expressions(text: str) -> None:
    """Whoever copies one has a start that works."""
    assert parse(text).references()


def test_the_page_explains_every_function() -> None:
    """And no other."""
    table = DOCUMENT.partition("## Functions")[2].partition("\n\nA field")[0]
    explained = re.findall(r"`(\w+)\(", table)
    assert sorted(set(explained)) == sorted(FUNCTIONS)
