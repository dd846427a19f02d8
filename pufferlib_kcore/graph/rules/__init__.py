"""Rules: what each operation does to neurons. A new kind of layer is one more function in these files."""

from pufferlib_kcore.graph.rules import (  # noqa: F401  (each fills the table of operations)
    constants,
    elementwise,
    layers,
    movement,
    products,
    recurrent,
    reductions,
)
