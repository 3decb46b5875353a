"""The pipelines that are fuzzed: every kind of step, every type, and the fields that a request to each may have."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kit import models
from reference import zoo
from reference.models import Onnx
from reference.pipelines import Check, Pipeline, Place, Step
from reference.values import Column
from reference.zoo import Model, Output, code_model, onnx_model


class Fuzzed(NamedTuple):
    name: str
    pipeline: Pipeline
    columns: tuple[Column, ...]
    """What rows have; for code that takes anything, an example."""
    keys: tuple[Column, ...] = ()
    """Fields that only splits look at."""
    rows: int | None = None
    """That every request must have."""

    @property
    def has_code(self) -> bool:
        """Whether 502 and 504 may be the code's own fault."""
        return any(
            "framework" in place.model.entry
            for step in self.pipeline.steps
            for place in step.places
        )


TYPES = ("bool", "string", *zoo.FLOATS, *zoo.INTEGERS)

ODD_NAMES = ('a"b', "{x}", "\\", "x y", "naïve", "out", "null")
"""That models may have for their inputs."""


def fuzzed(folder: Path) -> list[Fuzzed]:
    """All of them; the files are written to the folder."""
    house = (Column("tensor", "float32", (18,)),)
    every = tuple(Column(f"f_{dtype}", dtype) for dtype in TYPES)
    lists = tuple(Column(f"l_{dtype}", dtype, (None,)) for dtype in TYPES)
    grids = (
        Column("grid", "float32", (2, 2)),
        Column("cube", "int64", (1, 2, None)),
        Column("words", "string", (2, None)),
        Column("none", "float32", (0,)),
        Column("one", "float64", (1,)),
    )
    holes = (Column("a", "float32", (3,), True), Column("b", "float64", (), True))
    odd = tuple(Column(name, "float32") for name in ODD_NAMES)
    keys = (Column("who", "string"),)

    def same(columns: Sequence[Column], *, single: bool = False, rename: str = "none") -> Model:
        outputs = [Output(f"y{n}", "same", (c.name,)) for n, c in enumerate(columns)]
        return onnx_model(folder, columns, outputs, name="same", single=single, rename=rename)

    def scaled(factor: int, name: str, *, single: bool = False) -> Model:
        outputs = [Output("total", "sum", ("tensor",), factor)]
        return onnx_model(folder, house, outputs, name=name, single=single)

    total = (Column("total", "float32", (1,)),)
    after = onnx_model(folder, total, [Output("price", "times", ("total",), 2)], name="after")
    listed = (Column("x", "float32", (None,)),)
    above = onnx_model(folder, listed, [Output("y", "above", ("x",), 1)], name="above", single=True)
    above_y = (Column("y", "float32", (None,)),)
    twice, thrice = (
        onnx_model(
            *(folder, above_y, [Output("z", "times", ("y",), factor)]),
            name=f"by_{factor}",
            single=factor == 3,
        )
        for factor in (2, 3)
    )
    taking = code_model(zoo.times(3), name="taking", takes=house, gives=house)
    open_code = code_model(zoo.times(2), name="open")
    totals = code_model(zoo.TOTALS, name="totals")
    checks = (
        Check("low", "out.total[0] < 100", fails_when=False),
        Check("high", "any(in.tensor > 1e6) or steps.s0.out[0][0] != 3", fails_when=True),
    )

    priced = (Check("dear", "out.price[0] < 100", fails_when=False),)

    def one(model: Model, name: str = "s0") -> Step:
        return Step(name, "model", (Place(model),))

    variants = (Place(scaled(1, "m1"), "a", 1), Place(scaled(2, "m2"), "b", 2))
    watched = (
        Place(scaled(1, "m1"), "champion"),
        Place(scaled(2, "m2"), "c1"),
        Place(code_model(zoo.FAILS, name="fails"), "c2"),
    )
    return [
        Fuzzed("house", Pipeline((one(scaled(1, "m1")),), checks), house),
        Fuzzed("every type", Pipeline((one(same(every)),)), every),
        Fuzzed("lists of every type", Pipeline((one(same(lists)),)), lists),
        Fuzzed("lists of lists", Pipeline((one(same(grids)),)), grids),
        Fuzzed("holes", Pipeline((one(same(holes, rename="position")),)), holes),
        Fuzzed("odd names", Pipeline((one(same(odd)),)), odd),
        Fuzzed("without batches", Pipeline((one(same(every, single=True)),)), every),
        Fuzzed("ragged", Pipeline((one(above),)), listed),
        Fuzzed(
            "ragged between steps",
            Pipeline(
                (
                    one(above),
                    Step("s1", "split", (Place(twice, "a"), Place(thrice, "b")), hash_key="who"),
                )
            ),
            listed,
            keys,
        ),
        Fuzzed("four rows", Pipeline((one(_four(folder)),)), house, rows=4),
        Fuzzed("chain", Pipeline((one(scaled(1, "m1")), one(after, "s1"))), house),
        Fuzzed("random split", Pipeline((Step("s0", "split", variants),), checks), house),
        Fuzzed("sticky", Pipeline((Step("s0", "split", variants, hash_key="who"),)), house, keys),
        Fuzzed(
            "sticky by an input",
            Pipeline((Step("s0", "split", variants, hash_key="tensor"), one(after, "s1"))),
            house,
        ),
        Fuzzed(
            "by value",
            Pipeline(
                (
                    Step(
                        *("s0", "split", variants),
                        key="who",
                        options={"a": "a", "1": "b", "true": "b"},
                        default="a",
                    ),
                )
            ),
            house,
            keys,
        ),
        Fuzzed("shadow", Pipeline((Step("s0", "shadow", watched),)), house),
        Fuzzed(
            "shadow that waits",
            Pipeline((Step("s0", "shadow", watched, wait=True), one(after, "s1")), priced),
            house,
        ),
        Fuzzed("code", Pipeline((one(taking), one(scaled(1, "m1"), "s1"))), house),
        Fuzzed(
            "open code",
            Pipeline((one(open_code),), _OF_ANYTHING),
            (*every[:6], *grids[:1]),
        ),
        Fuzzed(
            "JSON code", Pipeline((one(totals), one(open_code, "s1"))), (*every[:4], *lists[2:4])
        ),
        Fuzzed(
            "open code and a split",
            Pipeline(
                (
                    one(open_code),
                    Step("s1", "split", variants, hash_key="who"),
                    one(totals, "s2"),
                )
            ),
            house,
            keys,
        ),
        Fuzzed(
            "code in a split",
            Pipeline(
                (Step("s0", "split", (Place(taking, "a"), Place(_doubled(house), "b"))),),
                (Check("c", "a.outputs[0][0] < 5", fails_when=False),),
            ),
            house,
        ),
    ]


_OF_ANYTHING = (
    Check("long", "len(in.f_string) < 3 or contains(out.f_string, in.f_string)", fails_when=False),
    Check("said", 'in.f_string == "a" or any(contains(in.f_string, "b"))', fails_when=True),
    Check(
        "counted", "in.f_int8 % 2 == 0 and abs(out.f_float16) < 9 and in.f_bool", fails_when=True
    ),
    Check("added", "sum(in.grid) > 1 or min(in.grid) < in.f_float32", fails_when=False),
    Check("first", "steps.s0.out[0] == in.f_bool or len(in.grid) == 2", fails_when=False),
)
"""Of fields that nobody has declared."""


def codes(all_of_them: Sequence[Fuzzed]) -> list[str]:
    """The code in them."""
    sources = [
        place.model.entry["source"]
        for each in all_of_them
        for step in each.pipeline.steps
        for place in step.places
    ]
    return sorted({source["inline"] for source in sources if "inline" in source})


def _doubled(columns: tuple[Column, ...]) -> Model:
    return code_model(zoo.times(2), name="doubled", takes=columns, gives=columns)


def _four(folder: Path) -> Model:
    path = models.fixed_batch(folder / "four.onnx", 4)
    entry = {"name": "four", "source": {"uri": str(path)}}
    column = Column("tensor", "float32", (18,))
    gives = (Column("variable", "float32", (1,)),)
    return Model(entry, "four", (column,), gives, Onnx(path, {"tensor": "tensor"}))
