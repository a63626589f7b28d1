"""A small search on real images that are streamed from disk; as a script one process of it, as `test_hosts.py` says.

`python host_worker.py JSON`: the arguments of `Hosts` as "hosts", and those of `search`.
"""

import functools
import json
import os
import signal
import sys

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from jnas import bilevel, data, distributed, nets, spaces, train
from jnas.data.stream import bilevel_stream_source, open_tfds, split_stream
from jnas.distributed import hosts, peers
from jnas.distributed.cache import enable_compilation_cache
from jnas.distributed.meshes import data_mesh
from jnas.errors import Interrupted, UserError
from jnas.recipes import flat
from jnas.recipes.supernet import supernet_problem
from jnas.train.program import split_key

BATCH, STEPS, EPOCH, SIDE = 8, 12, 6, 8  # examples a batch, steps of the run, batches an epoch, pixels


class Recorded:
    """A data source that notes which examples are read."""

    def __init__(self, source):
        self.source, self.reads = source, []

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        self.reads.append(index)
        return self.source[index]


@functools.cache
def learner():
    space = spaces.nasbench201()
    space = spaces.narrow(space, {"cell": [["skip_connect", "nor_conv_1x1"], *[["none", "skip_connect"]] * 5]})
    net = nets.Network(
        space, ("cell",), channels=2, num_classes=10, stem_multiplier=1, project_inputs=False, remat=False,
        edge_strategy="unroll",
    )  # fmt: skip
    shape = (SIDE, SIDE, 1)
    problem, _ = supernet_problem(net, unravel=flat.unravel_of(net, shape))
    init = flat.start(net, shape, lambda key: spaces.init_alpha(space, key, 0.1))
    tx = optax.chain(
        bilevel.storm(bilevel.decaying()),
        optax.partition({"weights": optax.sgd(0.05), "alpha": optax.sgd(0.5)}, bilevel.Point("weights", "alpha")),
    )
    return space, bilevel.simultaneous(problem, bilevel.first_order(), init, tx)


def search(*, folder, images, mesh=None, act=None):
    """Run the search, from its checkpoints in `folder` if there are any.

    `act`: (step, process, signal): the process sends itself the signal after the step. Returns what is to be compared.
    """
    source, _ = open_tfds(images)
    inner, outer = (Recorded(part) for part in split_stream(source, jax.random.key(5), 0.5))
    key = jax.random.key(3)
    space, of_space = learner()

    def steps_done(event):
        if act is not None and event.step == act[0] and jax.process_index() == act[1]:
            os.kill(os.getpid(), getattr(signal, act[2]))

    batches = bilevel_stream_source(
        inner, outer, batch_size=BATCH, augment=data.Augment(flip=True), key=split_key(key).data
    )
    for part in (inner, outer):
        part.reads.clear()  # the first example, for its shape
    state = train.fit(
        of_space,
        batches,
        key=key,
        num_steps=STEPS,
        mesh=mesh,
        checkpoints=train.Saving(f"{folder}/checkpoints", 2),
        hooks=[*train.chunks_of(1), train.Hook(steps=steps_done), train.jsonl_log(f"{folder}/log.jsonl")],
    )
    alpha = np.asarray(state.point.alpha["cell"])
    return {
        "process": jax.process_index(),
        "devices": jax.device_count(),
        "alpha": alpha.tolist(),
        "weights": np.asarray(state.point.weights).tolist(),
        "genotype": spaces.to_string(space, spaces.discretise(space, {"cell": alpha})),
        "inner": inner.reads,
        "outer": outer.reads,
    }


def main(spec):
    # On a slow machine too process 0 ends last, and a failed operation is blamed on the peer that died.
    peers.LINGER, blame = 100.0, peers.Watch.blame
    peers.Watch.blame = lambda self, seconds: blame(self, 100.0)
    enable_compilation_cache()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_num_cpu_devices", spec.pop("devices", 1))
    with hosts.joined(hosts.Hosts(**spec.pop("hosts"))):
        mesh = data_mesh()
        order = spec.pop("order", None)
        if order is not None:  # of the devices along the mesh
            mesh = Mesh(mesh.devices[order], mesh.axis_names, axis_types=mesh.axis_types)
        result = search(mesh=mesh, **spec)
        everywhere = distributed.from_first(lambda: {"from": jax.process_index()})
        print("RESULT", json.dumps(result | everywhere), flush=True)


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except Interrupted as error:
        print(error, flush=True)
        sys.exit(143)
    except UserError as error:
        sys.exit(f"jnas: {error}")
