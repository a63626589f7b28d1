"""How tests compile: their programs are compiled for longer than they run."""

import importlib.metadata

# Less optimised machine code, by the older of two code generators: half the time. It left jaxlib after 0.10.
FLAGS = "--xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib").split(".")[:2] == ["0", "10"]:
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
