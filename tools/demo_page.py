"""The end of make demo: what was shown as a table in plain words, and demo/index.html with both parts."""

from __future__ import annotations

import html
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
KINDS = {"original": "original", "base": "collapsed", "ablationsrandom": "random ablation"}
ROUNDS = 60  # of each measurement, the policies by turns
ENVS, BATCH, HORIZON = 16, 512, 16  # acting in so many environments; learning from so many steps


def main(beam_rider: Path) -> None:
    first = "*/checkpoints/*__e20__*__sc0.pt"  # what each run started from
    files = {
        name: next(DEMO.glob(f"train_dir/cartpole_epoch_20_{kind}*/{first}")) for kind, name in KINDS.items()
    }
    policies = {name: restore(file).policy for name, file in files.items()}
    params = {name: sum(p.numel() for p in policy.parameters()) for name, policy in policies.items()}
    played = {name: returned(DEMO / f"played_{kind}.txt") for kind, name in KINDS.items()}
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
    pictures = [batch / "returns.png"] if (batch / "returns.png").exists() else []
    title = "A policy at 5% of its size, and the guide's three steps"
    parts = [
        f"<h1>{title}</h1>",
        f'<p class="told">{html.escape(told)}</p>',
        f'<div class="scroll">{table._repr_html_()}</div>',
        "<p>Return: mean of 32 whole episodes, played before any of them was trained on. The random ablation "
        "has the collapsed policy's widths, and units of the original as they are.</p>",
        "<h2>Trained on, all three with the schedule going on</h2>",
        *(report.image(path.read_bytes(), "returns over steps") for path in pictures),
        f'<p><a href="{batch.relative_to(DEMO)}/index.html">The full report of these runs</a></p>',
        "<h2>The guide's three steps on BeamRider</h2>",
        "<p>Train, collapse and resume, compare: the steps of the guide, cut short. After so few steps no "
        "policy plays BeamRider well: the picture shows what a report looks like, and no more.</p>",
        report.image((beam_rider / "report.png").read_bytes(), "BeamRider before and after"),
        f'<p><a href="../{beam_rider}/report.html">The full report</a>, '
        '<a href="guide.ipynb">the notebook, run on these runs</a></p>',
    ]
    style = "p.told { color: inherit; font-size: 1.1rem; }"
    return report.document(title, "\n".join(parts), style)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
