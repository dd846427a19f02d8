"""The end of make demo: what was shown as a table in plain words, and demo/index.html with both parts."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pufferlib_kcore.jobs.worker import ignore_pynvml  # noqa: E402

ignore_pynvml()

import torch  # noqa: E402

from pufferlib_kcore import store  # noqa: E402
from pufferlib_kcore.analysis import report  # noqa: E402
from pufferlib_kcore.analysis.curves import Curve  # noqa: E402
from pufferlib_kcore.analysis.tables import Table  # noqa: E402
from pufferlib_kcore.policies.restore import restore  # noqa: E402
from pufferlib_kcore.store import atomic  # noqa: E402
from pufferlib_kcore.text import readable  # noqa: E402
from pufferlib_kcore.training.unroll import initial_state, step, unroll  # noqa: E402

DEMO = Path("demo")
RUNS = {"original": "original", "base": "collapsed", "ablationsrandom": "random ablation"}
ROUNDS = 60  # of each measurement, the policies by turns
ENVS, BATCH, HORIZON = 16, 512, 16  # acting in so many environments; learning from so many steps


def main(beam_rider: Path) -> None:
    first = "*/checkpoints/*__e20__*__sc0.pt"  # what each run started from
    files = {
        name: next(DEMO.glob(f"train_dir/cartpole_epoch_20_{kind}*/{first}")) for kind, name in RUNS.items()
    }
    policies = {name: restore(file).policy for name, file in files.items()}
    params = {name: sum(p.numel() for p in policy.parameters()) for name, policy in policies.items()}
    played = {name: returned(DEMO / f"played_{kind}.txt") for kind, name in RUNS.items()}
    runs = {name: store.MettaFolder(file.parents[2]) for name, file in files.items()}
    later = {name: Curve.from_records(run.metrics()).final() for name, run in runs.items()}
    acting, learning = timed(policies)
    table = Table()
    for name in policies:
        table.append(
            {
                "CartPole + LSTM": name,
                "parameters": params[name],
                "kept": f"{params[name] / params['original']:.1%}",
                "return": played[name],
                "after 40,960 more steps": later[name],
                f"acting in {ENVS}, ms": acting[name],
                f"learning from {BATCH}, ms": learning[name],
            }
        )
    told = sentence(params, played, acting, learning)
    print(f"What was shown\n\n{table}\n\n{told}")
    atomic.write(DEMO / "index.html", page(told, table, beam_rider).encode())


def returned(path: Path) -> float:
    """The mean return in the line of --mode eval."""
    line = path.read_text().strip().splitlines()[-1]
    return float(dict(word.split("=", 1) for word in line.split() if "=" in word)["episode_return"])


def timed(policies: dict) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds of one step and of one gradient step of each, on one thread: medians, taken by turns."""
    torch.set_num_threads(1)
    obs = torch.randn(BATCH // HORIZON, HORIZON, 4, generator=torch.Generator().manual_seed(0))
    starts = torch.zeros(obs.shape[:2], dtype=torch.bool)
    optimizers = {
        name: torch.optim.Adam(policy.parameters(), fused=True) for name, policy in policies.items()
    }

    def act(policy, optimizer) -> None:
        with torch.no_grad():
            step(policy, obs[:ENVS, 0], initial_state(policy, ENVS))

    def learn(policy, optimizer) -> None:
        logits, values = unroll(policy, obs, initial_state(policy, len(obs)), starts)
        (logits.square().mean() + values.square().mean()).backward()
        optimizer.step()
        optimizer.zero_grad()

    found = []
    for work in (act, learn):
        spent: dict[str, list[float]] = {name: [] for name in policies}
        for _ in range(ROUNDS):
            for name, policy in policies.items():
                began = time.perf_counter()
                work(policy, optimizers[name])
                spent[name].append(1e3 * (time.perf_counter() - began))
        found.append({name: round(statistics.median(some[ROUNDS // 4 :]), 3) for name, some in spent.items()})
    return found[0], found[1]


def sentence(params: dict, played: dict, acting: dict, learning: dict) -> str:
    """What came out, whatever it is."""

    def faster(spent: dict) -> str:
        return f"{spent['original'] / spent['collapsed']:.1f} times as fast"

    kept, best = params["collapsed"] / params["original"], "500 is the most there is"
    return (
        f"On CartPole, the policy collapsed to {kept:.1%} of its parameters returns "
        f"{readable(played['collapsed'])} without any training since; the original returns "
        f"{readable(played['original'])} ({best}), and as many of its units picked at random "
        f"{readable(played['random ablation'])}. The collapsed policy acts {faster(acting)} and learns "
        f"{faster(learning)} as the original."
    )


def page(told: str, table: Table, beam_rider: Path) -> str:
    """Both parts, the full reports one click away."""
    batch = DEMO / "train_dir/cartpole_kcore/report"
    returns = batch / "returns.png"
    return report.render(
        ROOT / "tools/demo_page.html",
        title="A policy at 5% of its size, and the guide's three steps",
        told=told,
        table=table,
        returns=returns.read_bytes() if returns.exists() else None,
        full=f"{batch.relative_to(DEMO)}/index.html",
        beam_rider=(beam_rider / "report.png").read_bytes(),
        beam_rider_full=f"../{beam_rider}/report.html",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
