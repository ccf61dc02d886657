"""The CPU kernels against everything else that computes the same, against plain convolutions, and in whole networks.

    python benchmarks/cpu_kernels.py
    python benchmarks/cpu_kernels.py --operators dcnv2 ddf --shape 1x256x14x14 --shape 1x128x100x167
    python benchmarks/cpu_kernels.py --end-to-end --save

gate.py has the measuring rule, problems.py the inputs, peers.py the engines, compare.py the tables; here is what is
compared with what, and by which bar it is judged. Before anything is timed, every engine's output is compared with the
reference: a wrong one stops the run. An engine that is not installed is left out, and a line says so. With --save the
result is also written to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import peers
import record
from compare import Bar, Comparison, Item, Row, as_json, print_comparison
from gate import DISTURBED, IDLE, LeftOutError, Machine, Worker, measure
from problems import CLASSIFICATION, DETECTION, Network, Problem, is_detection, shape_of

from dyndeploy.cli._render import out, progress
from dyndeploy.testing.numeric import compare

#: Relative L2 error up to which an engine computes the same; the right ones are below 1e-5.
AGREEMENT = 1e-3


TRAINING = ((8, 128, 28, 28), (8, 256, 14, 14), (1, 128, 100, 167))
STRIDED = ((1, 256, 56, 56), (1, 128, 100, 167))

NATIVE, FIRST, LAST = "ours in ONNX Runtime", "ours in torch, NCHW", "ours in torch, channels_last"
BODY, DEFORM_CONV = "function body in ONNX Runtime", "DeformConv of ONNX Runtime"
TORCH_CONV = ("conv2d of torch, NCHW", "conv2d of torch, channels_last")
CONV = (*TORCH_CONV, "conv2d of OpenVINO", "conv2d of ONNX Runtime")
UP_FIRST, UP_LAST = "4 calls of ours, NCHW", "4 calls of ours, channels_last"
STEP, STEP_LAST = "step of ours, NCHW", "step of ours, channels_last"
COMPOSED_STEP, REFERENCE_STEP = "step of the composition", "step of the references"
NETWORKS = ("ddf_resnet50", "resnet50_dcnv2", "dgc_resnet18", "drconv_shufflenetv2_x1_0")


def comparisons(shapes: Sequence[tuple[int, int, int, int]], bundles: Path) -> list[Comparison]:
    """All tables.

    Args:
        shapes: of X, with stride 1, instead of the usual ones.
        bundles: folder for those of the networks.
    """

    def problems(operator: str, strided: bool = True, **more: object) -> tuple[Problem, ...]:
        plain = tuple(
            Problem(operator, shape, **more) for shape in shapes or (*CLASSIFICATION, (8, 256, 14, 14), *DETECTION)
        )
        return plain + tuple(Problem(operator, s, 2, **more) for s in STRIDED if strided and not shapes)

    ours = {"ours": (FIRST,), "ours cl": (LAST,)}
    return [
        Comparison(
            "dcnv2",
            "dcnv2, offsets of 2 px",
            problems("dcnv2"),
            {
                "ours": (NATIVE,),
                "ORT": (DEFORM_CONV,),
                "body": (BODY,),
                "OpenVINO": ("OpenVINO",),
                "ncnn": ("ncnn",),
                "torchvision": ("torchvision",),
                "conv": CONV,
            },
            {
                "peers": Bar(NATIVE, (DEFORM_CONV, BODY, "OpenVINO", "ncnn"), 1.1, geometric_mean=1.25),
                "torchvision": Bar(NATIVE, ("torchvision",), 6),
                "of conv": Bar(NATIVE, CONV, 1.3, at_most=True, where=is_detection),
            },
            "GFLOP/s",
        ),
        Comparison(
            "dcnv2",
            "dcnv2, offsets of 0.5 and 8 px",
            tuple(p for px in (0.5, 8.0) for p in problems("dcnv2", offsets_px=px)),
            {"ours": (NATIVE,), "ORT": (DEFORM_CONV,), "body": (BODY,)},
            {"ORT": Bar(NATIVE, (DEFORM_CONV, BODY), 1.1)},
            "GFLOP/s",
        ),
        Comparison(
            "ddf",
            "ddf",
            problems("ddf"),
            {**ours, "depthwise": (TORCH_CONV[1],), "unfold": ("unfold",), "copy": ("copy of X",)},
            {
                "of depthwise": Bar(FIRST, TORCH_CONV[1:], 1.1, at_most=True),
                "cl of depthwise": Bar(LAST, TORCH_CONV[1:], 1.1, at_most=True),
                "unfold": Bar(FIRST, ("unfold",), 15),
                "unfold, cl": Bar(LAST, ("unfold",), 15),
            },
            "GB/s",
        ),
        Comparison(
            "ddf-up",
            "ddf-up, scale 2",
            problems("ddf", strided=False, scale=2),
            {**ours, "4 calls": (UP_FIRST,), "4 calls cl": (UP_LAST,)},
            {"4 calls": Bar(FIRST, (UP_FIRST,), 3), "4 calls cl": Bar(LAST, (UP_LAST,), 3)},
            "GB/s",
        ),
        Comparison(
            "drconv",
            "drconv, 8 regions",
            tuple(p for coherent in (False, True) for p in problems("drconv", coherent=coherent)),
            {**ours, "conv": TORCH_CONV, "select": ("all regions, then select",)},
            {
                "of conv": Bar(FIRST, TORCH_CONV, 1.3, at_most=True),
                "cl of conv": Bar(LAST, TORCH_CONV, 1.3, at_most=True),
                "select": Bar(FIRST, ("all regions, then select",), 5),
                "select, cl": Bar(LAST, ("all regions, then select",), 5),
            },
            "GFLOP/s",
        ),
        Comparison(
            "dgc",
            "dgc, 4 heads, a quarter of the channels kept",
            problems("dgc"),
            {**ours, "conv": TORCH_CONV, "masked": ("official masked form",)},
            {
                "of conv": Bar(FIRST, TORCH_CONV, 0.45, at_most=True),
                "cl of conv": Bar(LAST, TORCH_CONV, 0.45, at_most=True),
                "masked": Bar(FIRST, ("official masked form",), 3),
                "masked, cl": Bar(LAST, ("official masked form",), 3),
            },
            "GFLOP/s",
        ),
        *(
            Comparison(
                "step",
                f"training step of {operator}: forward, and the gradients of all inputs",
                tuple(Problem(operator, shape) for shape in shapes or TRAINING),
                {
                    "ours": (STEP,),
                    "ours cl": (STEP_LAST,),
                    "composition": (COMPOSED_STEP,),
                    "references": (REFERENCE_STEP,),
                },
                {
                    "composition": Bar(STEP, (COMPOSED_STEP, REFERENCE_STEP), 1),
                    "composition, cl": Bar(STEP_LAST, (COMPOSED_STEP, REFERENCE_STEP), 1),
                },
            )
            for operator in ("dcnv2", "ddf", "drconv", "dgc")
        ),
        Comparison(
            "networks",
            "networks, one image of 224x224",
            tuple(Network(name, bundles / name) for name in NETWORKS),
            {"ours": ("network, ours",), "bodies": ("network, function bodies",), "eager": ("network, torch eager",)},
            {
                "bodies": Bar("network, ours", ("network, function bodies",), 1),
                "eager": Bar("network, ours", ("network, torch eager",), 1),
            },
        ),
    ]


def rows(comparison: Comparison, threads: int, rounds: int, patience: float, tell: Callable[[str], None]) -> list[Row]:
    """Measure a table.

    Raises:
        RuntimeError: an engine fails, or does not compute the same as the reference.
    """
    machine = Machine()
    workers = {name: Worker(peers.prepare) for name in comparison.engines}
    found = []
    try:
        for item in comparison.items:
            tell(f"{comparison.name} {item}")
            if isinstance(item, Network):
                item.export()
            for name, worker in workers.items():
                worker.give(name, item, threads)
            ready, left_out = _ready(item, workers)
            times = measure({n: w.turn for n, w in ready.items()}, machine, rounds, patience)
            work = {name: item.work(peers.ENGINES[name][0]) for name in times}
            found.append(Row(item, times, left_out, work))
    finally:
        for worker in workers.values():
            worker.close()
    return found


def _ready(item: Item, workers: Mapping[str, Worker]) -> tuple[dict[str, Worker], dict[str, str]]:
    """The workers whose output is right, and why the others are left out."""
    arrays = item.draw()
    computed = {name: peers.ENGINES[name][0] for name in workers}
    answers = {computes: item.answer(computes, arrays) for computes in set(computed.values())}
    ready, left_out = {}, {}
    for name, worker in workers.items():
        try:
            output = worker.answer()
        except LeftOutError as reason:
            left_out[name] = str(reason)
            continue
        error = compare(output, answers[computed[name]])
        if not error.relative_l2 <= AGREEMENT:
            raise RuntimeError(f"{name} at {item}: relative error {error.relative_l2:.1e}; it computes something else.")
        ready[name] = worker
    return ready, left_out


def peer_versions() -> dict[str, str]:
    """Of the peers that are installed."""
    found = {}
    for name in ("openvino", "ncnn", "torchvision"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main() -> None:
    names = list(dict.fromkeys(c.name for c in comparisons((), Path())))[:-1]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--operators", nargs="*", choices=names, help="these; without names all of them")
    parser.add_argument("--end-to-end", action="store_true", help="the networks")
    parser.add_argument("--shape", action="append", type=shape_of, metavar="NxCxHxW", help="of X, not the usual ones")
    parser.add_argument("--threads", type=int, default=Machine().cpus, help="of every engine; all CPUs by default")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every engine")
    parser.add_argument("--patience", type=float, default=5.0, help="seconds a turn waits for an idle machine")
    parser.add_argument("--save", nargs="?", const="", metavar="FILE", help="write JSON; to results/ by default")
    arguments = parser.parse_args()
    chosen = set(names if arguments.operators == [] else arguments.operators or ())
    if arguments.end_to_end:
        chosen.add("networks")
    results = []
    with tempfile.TemporaryDirectory() as scratch, progress("bench", animate=False) as tell:
        for comparison in comparisons(arguments.shape or (), Path(scratch)):
            if not chosen or comparison.name in chosen:
                measured = rows(comparison, arguments.threads, arguments.rounds, arguments.patience, tell)
                print_comparison(out(), comparison, measured)
                results.append(as_json(comparison, measured))
    if arguments.save is not None:
        rule = {"threads": arguments.threads, "rounds": arguments.rounds, "patience_s": arguments.patience}
        rule |= {"gated": Machine().gated, "idle": IDLE, "disturbed": DISTURBED}
        file = Path(arguments.save) if arguments.save else record.RESULTS / f"{record.slug()}-kernels.json"
        record.save(file, results, peer_versions(), rule=rule)


if __name__ == "__main__":
    main()
