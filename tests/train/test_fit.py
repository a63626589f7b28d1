"""The loop against a plain Python loop; one compilation; boundaries; what stops it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engine_problem import KEY, leaves_as_bytes, make_learner, resident, rows

from jnas.distributed.meshes import make_mesh
from jnas.distributed.sharding import Place
from jnas.errors import Diverged, UserError
from jnas.nets.kernels.convolution import conv2d
from jnas.train import Saving, chunks_of, fit
from jnas.train.checkpoint import Checkpoints
from jnas.train.fit import _span
from jnas.train.hooks import Hook, of_run
from jnas.train.program import compile_steps
from jnas.types import Learner, Source

STEPS = 13


@pytest.fixture(scope="module")
def traces():
    return []


@pytest.fixture(scope="module")
def learner(traces):
    return make_learner(traces=traces)


@pytest.fixture(scope="module")
def source():
    return resident()


def recorder(events, every=None):
    return Hook(
        start=lambda step, num_steps: events.append(("start", step, num_steps)),
        steps=lambda event: events.append((event.step, {name: v.tolist() for name, v in event.metrics.items()})),
        save=lambda step: events.append(("save", step)),
        end=lambda step: events.append(("end", step)),
        every=every,
    )


@pytest.fixture(scope="module")
def by_hand(learner, source):
    """State and losses of a Python loop that says what `fit` promises."""
    init_key, data_key, learner_key = jax.random.split(KEY, 3)
    state, losses = jax.jit(learner.init)(init_key), []
    update = jax.jit(learner.update)
    for step in range(STEPS):
        batch = jax.tree.map(jnp.asarray, source.batch(source.arrays, step, data_key))
        state, metrics = update(state, batch, jax.random.fold_in(learner_key, step))
        losses.append(float(metrics["loss"]))
    return state, losses


@pytest.mark.parametrize("steps_per_call", [1, 5])
def test_equals_a_python_loop(learner, source, by_hand, steps_per_call):
    events = []
    state = fit(learner, source, key=KEY, num_steps=STEPS, hooks=[*chunks_of(steps_per_call), recorder(events)])
    expected, losses = by_hand
    for name in ("params", "momentum", "average"):
        for got, want in zip(
            jax.tree.leaves(getattr(state, name)), jax.tree.leaves(getattr(expected, name)), strict=True
        ):
            np.testing.assert_allclose(np.float32(got), np.float32(want), rtol=1e-5, atol=1e-7)
    assert jnp.array_equal(jax.random.key_data(state.key), jax.random.key_data(expected.key))
    seen = [loss for _, metrics in events[1:-1] for loss in metrics["loss"]]
    np.testing.assert_allclose(seen, losses, rtol=1e-5)
    assert events[0] == ("start", 0, STEPS)
    assert events[-1] == ("end", STEPS)


def test_one_trace_and_one_compilation_for_chunks_of_all_lengths(traces, learner, source):
    traces.clear()
    fit(learner, source, key=KEY, num_steps=STEPS, hooks=[*chunks_of(6), Hook(every=4)])  # 4 4 4 1
    fit(learner, source, key=jax.random.key(9), num_steps=STEPS, hooks=[*chunks_of(6), Hook(every=5)])  # 5 5 3
    assert len(traces) == 1


def test_a_longer_fit_of_the_same_learner_is_not_compiled_again(traces, learner, source):
    """As each rung of successive halving is."""
    traces.clear()
    for num_steps in (3, STEPS, 5 * STEPS):
        fit(learner, source, key=KEY, num_steps=num_steps)
    assert len(traces) == 1
    program = compile_steps(learner, source.batch, False, 6, Place())
    assert program.run._cache_size() == 1


def test_the_length_of_chunks_changes_no_bit(learner, source):
    run = lambda *hooks: fit(learner, source, key=KEY, num_steps=STEPS, hooks=[*chunks_of(6), *hooks])
    assert leaves_as_bytes(run()) == leaves_as_bytes(run(Hook(every=4)))


def test_chunks_end_where_hooks_and_checkpoints_ask(learner, source, tmp_path):
    events = []
    fit(
        learner,
        source,
        key=KEY,
        num_steps=STEPS,
        hooks=[*chunks_of(6), recorder(events, every=5)],
        checkpoints=Saving(tmp_path, 4),
    )
    order = [event[:2] if isinstance(event[0], str) else event[0] for event in events]
    saves = [("save", 4), ("save", 8), ("save", 12), ("save", 13)]
    assert order == [("start", 0), 4, saves[0], 5, 8, saves[1], 10, 12, saves[2], 13, saves[3], ("end", 13)]
    assert [len(event[1]["loss"]) for event in events if isinstance(event[0], int)] == [4, 1, 3, 2, 2, 1]


def test_a_function_gets_a_key_of_the_steps_own():
    learner = Learner(lambda key: jnp.zeros(()), lambda state, batch, key: (state + batch, {"draw": batch}))
    events = []
    fit(learner, lambda step, key: jax.random.normal(key), key=KEY, num_steps=4, hooks=[recorder(events)])
    data_key = jax.random.split(KEY, 3)[1]
    expected = [float(jax.random.normal(jax.random.fold_in(data_key, step))) for step in range(4)]
    np.testing.assert_allclose([x for event in events[1:-1] for x in event[1]["draw"]], expected, rtol=1e-6)


def test_arrays_that_init_captures_survive_donation():
    start = jnp.arange(3.0)
    learner = Learner(lambda key: {"a": start, "b": start}, lambda s, batch, key: ({"a": s["a"] + 1, "b": s["b"]}, {}))
    state = fit(learner, lambda step, key: (), key=KEY, num_steps=3)
    assert start.tolist() == state["b"].tolist() == [0, 1, 2]
    assert state["a"].tolist() == [3, 4, 5]


def test_python_numbers_in_state_and_metrics_do_not_recompile():
    traces = []

    def update(state, batch, key):
        traces.append(None)
        return state * jnp.float32(0.5), {"rate": 0.5}

    events = []
    learner, hooks = Learner(lambda key: 1.0, update), [recorder(events)]
    assert fit(learner, lambda step, key: (), key=KEY, num_steps=3, hooks=[*chunks_of(1), *hooks]) == 0.125
    assert len(traces) == 1
    assert events[1] == (1, {"rate": [0.5]})


def test_a_step_knows_the_mesh_that_it_runs_on(source):
    seen = []

    def note(count, params, loss):
        seen.append(dict(jax.sharding.get_abstract_mesh().shape))
        return params, loss

    for mesh in (None, make_mesh({"data": 1})):
        fit(make_learner(spoil=note), source, key=KEY, num_steps=1, mesh=mesh)
    assert (seen[0], seen[-1]) == ({}, {"data": 1})


def test_no_steps_returns_the_initial_state(learner, source):
    state = fit(learner, source, key=KEY, num_steps=0)
    assert leaves_as_bytes(state) == leaves_as_bytes(jax.jit(learner.init)(jax.random.split(KEY, 3)[0]))


@pytest.mark.parametrize("steps_per_call", [1, 4])
def test_diverged_names_step_and_metric_and_keeps_the_last_good_checkpoint(source, tmp_path, steps_per_call):
    learner = make_learner(spoil=lambda count, params, loss: (params, jnp.where(count == 10, jnp.nan, loss)))
    events = []
    with pytest.raises(Diverged, match=r"^loss is nan at step 11.*: lower the learning rate"):
        fit(
            learner,
            source,
            key=KEY,
            num_steps=STEPS,
            hooks=[*chunks_of(steps_per_call), recorder(events)],
            checkpoints=Saving(tmp_path, 3),
        )
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 9
    assert events[-1][0] == "end"


def test_a_state_that_is_not_finite_is_not_saved_though_its_metrics_are(source, tmp_path):
    spoil = lambda count, params, loss: (params | {"b": jnp.where(count == 5, jnp.inf, params["b"])}, loss)
    with pytest.raises(Diverged, match=r"^state\.params\['b'\] is not finite after step 6"):
        fit(make_learner(spoil=spoil), source, key=KEY, num_steps=STEPS, checkpoints=Saving(tmp_path, 3))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 3


def test_a_mask_of_infinities_is_a_legal_state(tmp_path):
    learner = Learner(lambda key: jnp.array([0.0, -jnp.inf]), lambda state, batch, key: (state + 1, {}))
    assert fit(learner, lambda step, key: (), key=KEY, num_steps=2, checkpoints=Saving(tmp_path)).tolist() == [
        2,
        -jnp.inf,
    ]


@pytest.mark.parametrize(
    ("update", "sentence"),
    [
        (
            lambda s, b, k: ({"w": s["w"].astype(jnp.int32)}, {}),
            r"state\['w'\] as int32\[3\] where init made float32\[3\]",
        ),
        (lambda s, b, k: ((s["w"],), {}), "structure"),
        (lambda s, b, k: (s, {"loss": s["w"]}), r"metric 'loss' has the shape \(3,\)"),
    ],
)
def test_an_update_of_another_type_is_refused(update, sentence):
    with pytest.raises(ValueError, match=sentence):
        fit(Learner(lambda key: {"w": jnp.zeros(3)}, update), lambda step, key: (), key=KEY, num_steps=2)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_steps": -1}, "num_steps is -1"),
        ({"hooks": chunks_of(0)}, "steps_per_call of a hook is 0"),
        ({"hooks": [Hook(every=0)]}, "every of a hook is 0"),
        ({"checkpoints": Saving("x", 0)}, "every of checkpoints is 0"),
        ({"key": jax.random.PRNGKey(0)}, "jax.random.key"),
        ({"mesh": jax.sharding.Mesh(np.array(jax.devices()[:1]), ("batch",))}, "make_mesh"),
    ],
)
def test_bad_arguments_are_refused(learner, source, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        fit(learner, source, **({"key": KEY, "num_steps": 3} | options))


def test_a_checkpoint_folder_that_cannot_be_written_is_one_sentence(learner, source, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^cannot write to the folder .*file/child: Not a directory; .*$"):
        fit(learner, source, key=KEY, num_steps=3, checkpoints=Saving(tmp_path / "file" / "child"))


def test_calls_grow_to_two_seconds_and_no_further():
    assert [_span(1, seconds, 50) for seconds in (60.0, 1.0, 0.1, 1e-6)] == [1, 2, 2, 2]
    assert [_span(16, seconds, 50) for seconds in (60.0, 4.0, 0.1)] == [1, 8, 32]
    assert _span(40, 0.1, 50) == 50


def test_ordinary_convolutions_are_kept_out_of_loops_on_a_cpu():
    calls = []
    hook = Hook(steps=lambda event: calls.append(len(event.metrics["loss"])))

    def learner(convolve):
        def loss(kernel, image):
            return jnp.sum(jax.checkpoint(convolve)(image, kernel) ** 2)

        def update(kernel, batch, key):
            value, slope = jax.value_and_grad(loss)(kernel, batch)
            return kernel - 1e-3 * slope, {"loss": value}

        return Learner(lambda key: jnp.full((3, 3, 2, 2), 0.1), update)

    def plain(image, kernel):
        return jax.lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    batch = lambda step, key: jnp.ones((1, 4, 4, 2))
    ends = [fit(learner(f), batch, key=KEY, num_steps=12, hooks=[hook]) for f in (plain, conv2d)]
    assert calls[:12] == [1] * 12
    assert len(calls[12:]) < 12
    assert sum(calls[12:]) == 12
    np.testing.assert_allclose(*ends, rtol=1e-5)


class TestFetch:
    @pytest.fixture(scope="class")
    @staticmethod
    def gather():
        return lambda arrays, step, key: arrays  # the same function for every test: one compilation

    def streamed(self, source, gather, log):
        data_key = jax.random.split(KEY, 3)[1]

        def fetch(step):
            log.append(step)
            return jax.tree.map(lambda a: a[np.asarray(rows(step, data_key))], source.arrays)

        return Source(gather, fetch=fetch)

    @pytest.mark.parametrize("steps_per_call", [1, 5])
    def test_equals_resident_arrays(self, learner, source, gather, steps_per_call):
        log, events = [], []
        state = fit(
            learner,
            self.streamed(source, gather, log),
            key=KEY,
            num_steps=STEPS,
            hooks=[*chunks_of(steps_per_call), recorder(events)],
        )
        expected = fit(learner, source, key=KEY, num_steps=STEPS, hooks=chunks_of(1))
        np.testing.assert_allclose(state.params["w"], expected.params["w"], rtol=1e-6)
        assert log == list(range(STEPS))  # each once, in order, none beyond the end
        assert [len(m["loss"]) for _, m in events[1:-1]] == ([1] * 13 if steps_per_call == 1 else [5, 5, 3])

    def test_the_next_batch_is_fetched_while_a_step_is_under_way(self, learner, source, gather):
        import threading

        fetched = [threading.Event() for _ in range(4)]
        early = []
        inner = self.streamed(source, gather, [])

        def fetch(step):
            fetched[step].set()
            return inner.fetch(step)

        look = Hook(steps=lambda event: early.append(event.step == 4 or fetched[event.step].wait(timeout=120)))
        fit(learner, inner._replace(fetch=fetch), key=KEY, num_steps=4, hooks=[*chunks_of(1), look])
        assert early == [True] * 4

    def test_an_error_of_the_host_reaches_the_caller(self, learner, source, gather):
        inner = self.streamed(source, gather, [])

        def fetch(step):
            if step == 2:
                raise FileNotFoundError("shard 2")
            return inner.fetch(step)

        events = []
        with pytest.raises(FileNotFoundError, match="shard 2"):
            fit(learner, inner._replace(fetch=fetch), key=KEY, num_steps=4, hooks=[*chunks_of(1), recorder(events)])
        assert events[-1] == ("end", 2)


class TestEnough:
    """A hook ends a run by what it returns; what it decides by is in the checkpoint."""

    def counting(self, limit, seen):
        memory = []

        def steps(event):
            memory.append(event.step)
            return len(memory) >= limit

        return Hook(
            steps=steps, save=lambda step: memory, restore=lambda kept: seen.append(memory.extend(kept) or [*kept]),
            every=2, name="counting",
        )  # fmt: skip

    def test_the_run_is_over_where_a_hook_says_so_and_stays_over(self, learner, source, tmp_path):
        seen, events = [], []
        hooks = [*chunks_of(2), self.counting(3, seen), recorder(events)]
        state = fit(learner, source, key=KEY, num_steps=STEPS, hooks=hooks, checkpoints=Saving(tmp_path))
        assert int(state.count) == 6
        assert events[-1] == ("end", 6)
        assert events[-2] == ("save", 6)
        again = fit(
            learner, source, key=KEY, num_steps=STEPS, hooks=[self.counting(3, seen), recorder(events)],
            checkpoints=Saving(tmp_path),
        )  # fmt: skip
        assert leaves_as_bytes(again) == leaves_as_bytes(state)
        assert events[-1] == ("end", 6)  # nothing ran
        assert seen == [[2, 4, 6]]  # and the hook knows what it had decided by

    def test_what_it_remembers_is_that_of_the_checkpoint(self, learner, source, tmp_path):
        """Cut off after 7 steps with the checkpoint of 4: the looks at 6 and 7 have not been."""
        seen = []

        def fail(event):
            if event.step == 7:
                raise RuntimeError("cut off")

        hooks = [*chunks_of(1), self.counting(9, seen), Hook(steps=fail)]
        with pytest.raises(RuntimeError, match="cut off"):
            fit(learner, source, key=KEY, num_steps=STEPS, hooks=hooks, checkpoints=Saving(tmp_path, 4))
        state = fit(
            learner, source, key=KEY, num_steps=STEPS, hooks=[*chunks_of(1), self.counting(9, seen)],
            checkpoints=Saving(tmp_path, 4),
        )  # fmt: skip
        assert seen == [[1, 2, 3, 4]]
        assert int(state.count) == 9  # nine looks in all: it is enough after the ninth step

    def test_what_else_a_hook_returns_ends_nothing(self, learner, source):
        hooks = [Hook(steps=lambda event: "truthy"), Hook(steps=lambda event: [event.step])]
        assert int(fit(learner, source, key=KEY, num_steps=STEPS, hooks=hooks).count) == STEPS

    def test_a_boolean_of_numpy_counts_and_memory_of_numpy_is_kept(self, learner, source, tmp_path):
        kept, restored = [], []
        hook = Hook(
            steps=lambda event: np.bool_(event.step >= 4), save=lambda step: kept or np.float32(step), name="numpy",
            restore=restored.append,
        )  # fmt: skip
        options = {"key": KEY, "num_steps": STEPS, "checkpoints": Saving(tmp_path)}
        assert int(fit(learner, source, hooks=[*chunks_of(2), hook], **options).count) == 4
        fit(learner, source, hooks=[hook], **options)
        assert restored == [4.0]

    def test_names_are_for_one_hook_that_all_processes_call(self, learner, source):
        with pytest.raises(ValueError, match="two hooks have the name 'x'"):
            fit(learner, source, key=KEY, num_steps=1, hooks=[Hook(name="x"), Hook(name="x")])
        with pytest.raises(ValueError, match="the hook 'x' is for the first process only"):
            fit(learner, source, key=KEY, num_steps=1, hooks=[Hook(name="x", first_process_only=True)])
        with pytest.raises(ValueError, match="the hook 'x' keeps something in checkpoints"):
            of_run(0, Hook(name="x"))
