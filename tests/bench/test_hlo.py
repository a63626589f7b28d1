"""The reader of compiled programs, on text written by hand and on a program whose collectives are known."""

import os
import subprocess
import sys

import pytest

from jnas.bench import hlo
from jnas.bench.traffic import Collective, totals

# A loop of `bound` trips around an all-reduce and a fusion that reads one row of a table.
LOOP = """HloModule step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%row (table: f32[100,8], at: s32[]) -> f32[1,8] {
  %table = f32[100,8]{1,0} parameter(0)
  %at = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %slice = f32[1,8]{1,0} dynamic-slice(%table, %at, %zero), dynamic_slice_sizes={1,8}
}

%body (state: (s32[], f32[100,8], f32[1,8])) -> (s32[], f32[100,8], f32[1,8]) {
  %state = (s32[], f32[100,8]{1,0}, /*index=2*/f32[1,8]{1,0}) parameter(0)
  %counter = s32[] get-tuple-element(%state), index=0
  %table = f32[100,8]{1,0} get-tuple-element(%state), index=1
  %one = s32[] constant(1)
  %copied = s32[] copy(%counter)
  %next = s32[] add(%copied, %one)
  %read = f32[1,8]{1,0} fusion(%table, %counter), kind=kLoop, calls=%row
  %reduced = f32[1,8]{1,0} all-reduce(%read), replica_groups={{0,1}}, to_apply=%add
  ROOT %out = (s32[], f32[100,8]{1,0}, f32[1,8]{1,0}) tuple(%next, %table, %reduced)
}

%condition (state: (s32[], f32[100,8], f32[1,8])) -> pred[] {
  %state = (s32[], f32[100,8]{1,0}, f32[1,8]{1,0}) parameter(0)
  %counter = s32[] get-tuple-element(%state), index=0
  %bound = s32[] constant(7)
  ROOT %less = pred[] compare(%counter, %bound), direction=LT
}

ENTRY %main (table: f32[100,8], first: s32[]) -> f32[1,8] {
  %table = f32[100,8]{1,0} parameter(0)
  %first = s32[] parameter(1)
  %start = s32[] constant(2)
  %empty = f32[1,8]{1,0} constant({...})
  %tuple = (s32[], f32[100,8]{1,0}, f32[1,8]{1,0}) tuple(%start, %table, %empty)
  %loop = (s32[], f32[100,8]{1,0}, f32[1,8]{1,0}) while(%tuple), condition=%condition, body=%body
  ROOT %result = f32[1,8]{1,0} get-tuple-element(%loop), index=2
}
"""
ADD, COPY, ROW, REDUCE = 12, 8, 32 + 4 + 32, 64  # bytes of one trip: operands and results


def test_a_loop_whose_condition_tells_its_trips():
    found = totals(hlo.parse(LOOP), trips=(1000,))
    assert found.collectives == (Collective("all-reduce", 5.0, 1, 5 * 32.0),)
    assert found.bytes == 5 * (ADD + COPY + ROW + REDUCE)
    assert found.assumed_loops == 0


def test_what_the_compiler_noted_comes_first():
    noted = LOOP.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"11"}}')
    assert totals(hlo.parse(noted)).collectives[0].count == 11


@pytest.mark.parametrize(
    "change",
    [
        ("tuple(%start,", "tuple(%first,"),  # starts anywhere
        ("direction=LT", "direction=NE"),
        ("%one = s32[] constant(1)", "%one = s32[] constant(2)"),  # steps of two
        ("add(%copied, %one)", "multiply(%copied, %one)"),
    ],
)
def test_a_loop_that_only_the_run_ends_counts_as_assumed(change):
    text = LOOP.replace(*change)
    assert text != LOOP
    found = totals(hlo.parse(text), trips=(3.5,))
    assert (found.collectives[0].count, found.assumed_loops) == (3.5, 1)


def test_loops_inside_loops_multiply():
    """The same loop as the body of another one, of four trips, which is known, or of an unknown number."""
    inner = LOOP.replace("ENTRY %main (table: f32[100,8], first: s32[])", "%inner (table: f32[100,8], first: s32[])")
    outer = """
%outer (pair: (f32[100,8], s32[])) -> (f32[100,8], s32[]) {
  %pair = (f32[100,8]{1,0}, s32[]) parameter(0)
  %table = f32[100,8]{1,0} get-tuple-element(%pair), index=0
  %first = s32[] get-tuple-element(%pair), index=1
  %row = f32[1,8]{1,0} call(%table, %first), to_apply=%inner
  ROOT %same = (f32[100,8]{1,0}, s32[]) tuple(%table, %first)
}

%always (pair: (f32[100,8], s32[])) -> pred[] {
  %pair = (f32[100,8]{1,0}, s32[]) parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main (pair: (f32[100,8], s32[])) -> (f32[100,8], s32[]) {
  %pair = (f32[100,8]{1,0}, s32[]) parameter(0)
  ROOT %loop = (f32[100,8]{1,0}, s32[]) while(%pair), condition=%always, body=%outer
}
"""
    assert totals(hlo.parse(inner + outer), trips=(4,)).collectives[0].count == 20
    unknown = inner.replace("tuple(%start,", "tuple(%first,")
    assert totals(hlo.parse(unknown + outer), trips=(4, 3)).collectives[0].count == 12
    with pytest.raises(ValueError, match="trips is empty"):
        totals(hlo.parse(LOOP), trips=())


def entry(*lines):
    return hlo.parse("ENTRY %main () -> f32[] {\n" + "".join(f"  {line}\n" for line in lines) + "}")


@pytest.mark.parametrize(
    ("array", "size", "stored"),
    [
        ("f32[3,5]{1,0}", 60, 60),
        ("f32[3,5]{1,0:T(8,128)}", 60, 8 * 128 * 4),
        ("bf16[2,200,9]{1,2,0:T(8,128)(2,1)}", 7200, 2 * 16 * 256 * 2),  # 200 is the minor side, 9 the next
        ("f32[]{:T(128)}", 4, 512),
        ("f32[8,128]{1,0:T(8,128)S(1)}", 4096, 0),  # beside the core
        ("pred[10]{0}", 10, 10),
        ("s4[16]{0}", 8, 8),
        ("token[]", 0, 0),
    ],
)
def test_sizes_are_those_of_the_layout(array, size, stored):
    module = entry(f'ROOT %x = {array} custom-call(), custom_call_target="f"')
    assert module.computations["main"].instructions["x"].results == (hlo.Array(size, stored),)


def test_asynchronous_collectives_count_once():
    module = entry(
        "%p = f32[16]{0} parameter(0)",
        "%begin = f32[16]{0} all-reduce-start(%p), replica_groups={}, to_apply=%add",
        "%other = f32[64]{0} all-gather(%p), replica_groups={}, dimensions={0}",
        "ROOT %end = f32[16]{0} all-reduce-done(%begin)",
    )
    assert totals(module).collectives == (
        Collective("all-reduce", 1.0, 1, 64.0),
        Collective("all-gather", 1.0, 1, 64.0),
    )


def test_of_a_conditional_the_busiest_branch_counts():
    text = """
%small (p: f32[16]) -> f32[16] {
  ROOT %p = f32[16]{0} parameter(0)
}

%large (p: f32[16]) -> f32[16] {
  %p = f32[16]{0} parameter(0)
  ROOT %r = f32[16]{0} negate(%p)
}

ENTRY %main (i: s32[], p: f32[16]) -> f32[16] {
  %i = s32[] parameter(0)
  %p = f32[16]{0} parameter(1)
  ROOT %c = f32[16]{0} conditional(%i, %p, %p), branch_computations={%small, %large}
}
"""
    assert totals(hlo.parse(text)).bytes == 128


def test_text_without_an_entry_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("HloModule empty")


PROGRAM = """
import jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
def train(w, x):
    loss = lambda w: jnp.mean((x @ w) ** 2)
    def step(w, _):
        return jax.lax.fori_loop(0, 3, lambda _, v: v - 0.1 * jax.grad(loss)(v), w), None
    return jax.lax.scan(step, w, length=5)[0]
put = lambda shape, spec: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
print(jax.jit(train).lower(put((16, 4), P()), put((64, 16), P("data"))).compile().as_text())
"""


def test_a_real_program_on_eight_devices():
    """Fifteen gradients, each summed over the devices."""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    text = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **flags}, check=True, capture_output=True, text=True
    ).stdout
    found = totals(hlo.parse(text))
    assert found.collectives == (Collective("all-reduce", 15.0, 1, 15 * 16 * 4 * 4.0),)
    assert found.assumed_loops == 0
