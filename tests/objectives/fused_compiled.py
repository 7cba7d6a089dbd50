"""Compiles a GPU's kernels for one, without one: instructions and registers, one JSON line."""

import json
import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from unlabel.objectives import fused

FLOATS, INDICES = ("by_row", "by_col", "g", "h", "shift"), ("first", "second")


def compiled(kernel, shape: fused.Shape, capability: int, **flags) -> dict[str, int]:
    flags |= {"HIGH": shape.high, "WIDE": shape.wide, "DEEP": shape.deep}
    blocks = {"rows": (shape.high, shape.deep), "cols": (shape.wide, shape.deep)}
    blocks["out"] = shape.high, shape.wide
    kinds = dict.fromkeys(kernel.arg_names, "i32") | dict.fromkeys(flags, "constexpr")
    kinds |= {"factor": "fp32", "row_id": "*i64", "col_id": "*i64"}
    kinds |= dict.fromkeys(FLOATS, "*fp32") | dict.fromkeys(INDICES, "*i32")
    kinds |= {name: f"tensordesc<fp16[{a},{b}]>" for name, (a, b) in blocks.items()}
    source = ASTSource(kernel, {name: kinds[name] for name in kernel.arg_names}, flags)
    target = GPUTarget("cuda", capability, 32)
    options = {"num_warps": shape.warps, "num_stages": shape.stages}
    made = triton.compile(source, target=target, options=options)
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder, "kernel.cubin")
        binary.write_bytes(made.asm["cubin"])
        tool = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(binary)]
        usage = subprocess.run(tool, capture_output=True, text=True, check=True).stdout
    return {
        "spilled": int(re.findall(r"STACK:(\d+)", usage)[-1]),
        "products": made.asm["ptx"].count("wgmma.mma_async"),
        "loads": made.asm["ptx"].count("cp.async.bulk.tensor"),
        "shared": made.metadata.shared,
        "planned": shape.shared(),
    }


def main() -> None:
    large, both = fused.SHAPES[0], {"COLUMNS": 2, "IDS": True, "BOTH": True}
    found = {
        "sums": compiled(fused._sums, large, 90, MOST=False, **both),
        "weights": compiled(fused._weights, large, 90, **both),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
