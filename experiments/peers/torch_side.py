"""The raced process of PyTorch and of the libraries on top of it; `race.py` starts it."""

import importlib.metadata
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch_methods as methods
from cases import CASES, NUM_CLASSES, RECURSION_TERMS, terms
from child import Work, serve
from torch_nets import supernet


def prepare(task: dict[str, Any]) -> Work:
    torch.set_num_threads(task["threads"])
    torch.set_num_interop_threads(1)
    device = task["device"]
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = task["precision"] == "tf32"
    start = dict(np.load(task["start"]))
    last = task["layout"] == "channels_last"
    memory = torch.channels_last if last else torch.contiguous_format
    net = supernet(CASES[task["case"]], NUM_CLASSES)
    net.load_state_dict({name: torch.from_numpy(value) for name, value in under(start, "weights").items()})
    net = net.to(device, memory_format=memory).train()
    alpha = {
        cell: torch.tensor(value, device=device, requires_grad=True) for cell, value in under(start, "alpha").items()
    }
    inner, outer = (
        methods.Batch(
            torch.from_numpy(start[f"{level}/image"]).to(device).contiguous(memory_format=memory),
            torch.from_numpy(start[f"{level}/label"]).to(device),
        )
        for level in ("inner", "outer")
    )
    vector = under(start, "vector")
    vector = [torch.from_numpy(vector[name]).to(device).reshape(p.shape) for name, p in net.named_parameters()]
    about = {"versions": {name: importlib.metadata.version(name) for name in ("torch", *package(task["peer"]))}}
    what, eta = task["what"], task["eta"]

    def work(once, check):
        """Work is done when the device is done."""
        if device == "cpu":
            return Work(once, check, about)

        def until_done():
            once()
            torch.cuda.synchronize()

        return Work(until_done, check, about, torch.cuda.max_memory_allocated)

    if what == "gradient":

        def once():
            return methods.gradient(net, alpha, inner)

        def check():
            loss, slope = once()
            return {"loss": loss.detach().cpu().numpy(), **weights_like(net, slope)}

        return work(once, check)
    if what == "hvp":
        routes: dict[str, Callable] = {
            "double backward": methods.hvp_double_backward,
            "torch.func jvp of grad": methods.hvp_forward_over_reverse,
        }
        product, seconds = fastest(routes, net, alpha, inner, vector)
        about |= {"variant": product, "variants_s": seconds}

        def once():
            return routes[product](net, alpha, inner, vector)

        return work(once, lambda: weights_like(net, once()))
    if what.startswith("neumann"):
        once = hypergradient_of(task["peer"])(net, alpha, inner, outer, num_terms=terms(what), step_size=eta)

        def check():
            direct = methods.alpha_gradient(net, alpha, outer)  # the tolerance is for what the series adds to this
            return {**alpha_like(alpha, once()), **alpha_like(alpha, direct, "direct")}

        return work(once, check)

    if what == "double_recursion":
        step = methods.double_recursion_step(net, alpha, num_terms=RECURSION_TERMS, step_size=eta)
    else:
        step = {"step": methods.first_order_step, "step_fd": methods.finite_difference_step}[what](net, alpha)

    def check_steps():
        step(inner, outer)
        step(outer, inner)
        moved_weights = [
            p.detach().cpu() - torch.from_numpy(start[f"weights/{name}"]) for name, p in net.named_parameters()
        ]
        moved_alpha = [value.detach().cpu() - torch.from_numpy(start[f"alpha/{cell}"]) for cell, value in alpha.items()]
        return {**weights_like(net, moved_weights), **alpha_like(alpha, moved_alpha)}

    return work(lambda: step(inner, outer), check_steps)


def package(peer: str) -> tuple[str, ...]:
    return {"torch": (), "betty": ("betty-ml",), "torchopt": ("torchopt",)}[peer]


def hypergradient_of(peer: str) -> Callable[..., Callable[[], list[torch.Tensor]]]:
    """How a library gives the Neumann hypergradient; only the one that is raced is imported."""
    if peer == "betty":
        import betty_methods

        return betty_methods.neumann
    if peer == "torchopt":
        import torchopt_methods

        return torchopt_methods.neumann
    return lambda *point, **options: lambda: methods.neumann(*point, **options)[1]


def fastest(routes: dict[str, Callable], *arguments) -> tuple[str, dict[str, float]]:
    """The quickest of several routes to the same numbers, and the seconds of each, the better of two warm runs."""
    finish = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    seconds = {}
    for name, function in routes.items():
        function(*arguments)
        finish()
        times = []
        for _ in range(2):
            started = time.perf_counter()
            function(*arguments)
            finish()
            times.append(time.perf_counter() - started)
        seconds[name] = min(times)
    return min(seconds, key=lambda name: seconds[name]), seconds


def under(arrays: dict[str, np.ndarray], group: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(f"{group}/"): value for name, value in arrays.items() if name.startswith(f"{group}/")}


def weights_like(net, values) -> dict[str, np.ndarray]:
    return {
        f"weights/{name}": v.cpu().contiguous().numpy()
        for (name, _), v in zip(net.named_parameters(), values, strict=True)
    }


def alpha_like(alpha, values, group="alpha") -> dict[str, np.ndarray]:
    return {f"{group}/{cell}": value.cpu().numpy() for cell, value in zip(alpha, values, strict=True)}


if __name__ == "__main__":
    serve(prepare)
