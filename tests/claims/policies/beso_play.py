"""BESO on unlabelled play: three steps are as good as fifty, and guidance turns a goal from ignored to followed.

    python tests/claims/policies/beso_play.py --work runs/claims/beso_play --out docs/results

Budget: full; 150 episodes of play, one training run of at most 30 minutes on one core (recipe play/beso), then seven
evaluations. What is finished in --work is not done again, and a training run that was cut is resumed. One trained model
serves all: sampler, steps and guidance are changed at evaluation. On the same 100 test episodes of task play:

- ``beso_play_steps``: success of DDIM with 3 steps within 3 points of that with 50, and both far above doing nothing.
  One step is measured beside it. Control: the null policy.
- ``beso_play_guidance``: success does not fall from guidance 0 over 0.5 and 1 to 1.5, and is at chance for 0. Chance is
  what the policy reaches that is told the goal of another episode. *Not falling* is no step down of more than 3 points
  and none that is significant (exact McNemar); *at chance* is not significantly above it. Control: told its own
  goal, the same policy must not be at chance.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import itertools

import claim_run

from robopolicy.evaluation.claims import ClaimResult
from robopolicy.evaluation.report import episodes_of, read_report
from robopolicy.evaluation.statistics import mcnemar_exact, paired_newcombe, wilson
from robopolicy.policies import load_policy
from robopolicy.sim.env import Env
from robopolicy.sim.episode import run_episode
from robopolicy.types import ActionChunk, Observation

TASK, ROBOT = "play", "panda"
STEPS = (1, 3, 50)
GUIDANCE = (0.0, 0.5, 1.0, 1.5)
WITHIN = 0.03
"""Points of success that three steps may differ from fifty, and that guidance may lose from value to value."""
LEAST_GAIN = 0.2
"""Of fifty steps over doing nothing: without it, agreement of the two would say nothing."""
SOURCE = "Reuss et al. 2023, arXiv 2304.02532, sections IV and V"
COMMAND = "python tests/claims/policies/beso_play.py --work runs/claims/beso_play --out docs/results"
Won = dict[int, bool]


def collect(work: Path, episodes: int) -> Path:
    """Play without labels; continued if cut."""
    store = work / "free_play.zarr"
    style = "task_parameters={style: play, goals: 8}"
    words = (f"task={TASK}", f"embodiment={ROBOT}", style, f"episodes={episodes}", "workers=1", f"out={store}")
    claim_run.robopolicy("collect", *words, log=work / "collect.log")
    return store


def train(work: Path, store: Path, steps: int, seed: int) -> Path:
    """Folder of the run; resumed if cut."""
    run = work / f"beso_{steps}_seed{seed}"
    log = Path(f"{run}.log")
    if not (run / "train.json").is_file():
        if (run / "config.yaml").is_file():
            claim_run.robopolicy("train", "--resume", run, log=log)
        else:
            words = ("recipe=play/beso", f"recipe.stages.policy.steps={steps}", f"recipe.seed={seed}")
            fixed = ("recipe.threads=1", "progress=false", f"data={store}", f"out={run}")
            claim_run.robopolicy("train", *words, *fixed, log=log)
    return run


def evaluate(run: Path, episodes: int, name: str, *changed: str) -> dict[str, Any]:
    """Report on the unseen episodes, with parameters of the policy changed."""
    out = run / f"{name}_{episodes}"
    if not (out / "report.html").is_file():
        words = (*changed, f"task={TASK}", f"episodes={episodes}", "split=test", "workers=1", f"out={out}")
        claim_run.robopolicy("eval", run, *words, log=Path(f"{out}.log"))
    return read_report(out)


def idle(work: Path, episodes: int) -> dict[str, Any]:
    """Report of doing nothing."""
    out = work / f"null_{episodes}"
    if not (out / "report.html").is_file():
        words = ("policy=null", f"task={TASK}", f"embodiment={ROBOT}", f"episodes={episodes}", "workers=1")
        claim_run.robopolicy("eval", *words, f"out={out}", log=Path(f"{out}.log"))
    return read_report(out)


@dataclasses.dataclass
class Told:
    """A policy that is told another goal than the episode's.

    Attributes:
        policy: The policy.
        goal: f32 [G] all entries of the task's goal.
    """

    policy: Any
    goal: Any

    @property
    def spec(self) -> Any:
        """Its needs."""
        return self.policy.spec

    def act(self, observation: Observation, **more: Any) -> ActionChunk:
        """One chunk for the other goal."""
        chunk: ActionChunk = self.policy.act(dataclasses.replace(observation, goal=self.goal), **more)
        return chunk


def with_other_goals(run: Path, episodes: int) -> Won:
    """Success of each episode, judged by its own goal, of a policy that is told the goal of the next one."""
    kept = run / f"other_goals_{episodes}.json"
    if not kept.is_file():
        env, policy = Env(TASK, ROBOT), load_policy(run, device="cpu")
        won: Won = {}
        for index in range(episodes):
            env.reset(options={"split": "test", "index": index + 1})
            other = env.task.goal(env.data)
            won[index] = run_episode(env, Told(policy, other), split="test", index=index).success_at_end
        kept.write_text(json.dumps(won))
    return {int(index): bool(found) for index, found in json.loads(kept.read_text()).items()}


def successes(report: dict[str, Any]) -> Won:
    """Episode -> whether it ended in success."""
    return {episode.index: bool(episode.success_at_end) for episode in episodes_of(report)}


def counts(one: Won, two: Won) -> list[int]:
    """Both, only the first, only the second, neither."""
    pairs = [(one[i], two[i]) for i in sorted(one)]
    return [sum(p == kind for p in pairs) for kind in ((True, True), (True, False), (False, True), (False, False))]


def rate(won: Won) -> dict[str, Any]:
    """Share of successes with its Wilson interval."""
    low, high = wilson(sum(won.values()), len(won))
    return {"success": round(sum(won.values()) / len(won), 4), "wilson_95": [round(low, 4), round(high, 4)]}


def few_steps(by_steps: dict[int, Won], null: Won, shared: dict[str, Any]) -> ClaimResult:
    """Three against fifty."""
    difference, low, high = paired_newcombe(*counts(by_steps[3], by_steps[50]))
    doing_nothing = rate(null)["success"]
    gain = rate(by_steps[50])["success"] - doing_nothing
    failed = doing_nothing <= 0.05
    return ClaimResult(
        claim="play: DDIM with 3 steps is within 3 points of DDIM with 50, same model, nothing trained again",
        source=SOURCE,
        target=f"|difference| <= {WITHIN}, and 50 steps at least {LEAST_GAIN} above the null policy",
        value={**{f"ddim_{n}": rate(won) for n, won in by_steps.items()}, "difference": difference},
        interval=(low, high),
        n=len(null),
        control={"what": "success of the null policy", "value": doing_nothing, "failed": failed},
        passed=bool(abs(difference) <= WITHIN + 1e-9 and gain >= LEAST_GAIN and failed),
        **shared,
    )


def guided(by_guidance: dict[float, Won], chance: Won, shared: dict[str, Any]) -> ClaimResult:
    """From ignoring the goal to following it."""
    rates = [rate(by_guidance[strength])["success"] for strength in GUIDANCE]
    falls = []
    for weaker, stronger in itertools.pairwise(GUIDANCE):
        _, lost, won, _ = counts(by_guidance[weaker], by_guidance[stronger])
        fall = (lost - won) / len(chance)
        falls.append(fall > WITHIN + 1e-9 or (fall > 0 and mcnemar_exact(lost, won) < 0.05))
    above, p_blind = _above(by_guidance[0.0], chance)
    gain, p_guided = _above(by_guidance[1.0], chance)
    _, low, high = paired_newcombe(*counts(by_guidance[1.0], by_guidance[0.0]))
    follows = gain > 0 and p_guided < 0.05
    return ClaimResult(
        claim="play: goal success does not fall with guidance 0, 0.5, 1, 1.5, and is at chance for 0",
        source=SOURCE,
        target=f"no step down of more than {WITHIN} or with p < 0.05; at 0 not above chance with p < 0.05",
        value={
            **{f"guidance_{strength:g}": rate(won) for strength, won in by_guidance.items()},
            "chance": rate(chance),
            "p_guidance_0_against_chance": p_blind,
            "strictly_monotone": all(a <= b for a, b in itertools.pairwise(rates)),
        },
        interval=(low, high),
        n=len(chance),
        control={
            "what": "the policy with its own goal being at chance too: gain over chance, exact McNemar",
            "value": {"gain": gain, "p": p_guided},
            "failed": follows,
        },
        passed=bool(not any(falls) and not (above > 0 and p_blind < 0.05) and follows),
        **shared,
    )


def _above(own: Won, chance: Won) -> tuple[float, float]:
    """Difference to chance and its exact p-value."""
    _, only_own, only_chance, _ = counts(own, chance)
    return (only_own - only_chance) / len(chance), mcnemar_exact(only_own, only_chance)


def main() -> None:
    """Run what is missing, then write the entries."""
    extra = {"steps": 16000, "seed": 0, "demonstrations": 150, "episodes": 100, "parallel": 1}
    options = claim_run.arguments(__doc__.splitlines()[0], **extra)
    work, episodes = options.work, options.episodes
    run = train(work, collect(work, options.demonstrations), options.steps, options.seed)
    jobs = {f"ddim_{n}": (f"policy.sampler.steps={n}",) for n in STEPS if n != 3}
    jobs |= {f"guidance_{g:g}": (f"policy.guidance={g:g}",) for g in GUIDANCE if g != 1.0} | {"plain": ()}
    calls = [partial(evaluate, run, episodes, name, *changed) for name, changed in jobs.items()]
    reports = dict(zip(jobs, claim_run.run_all(calls, options.parallel), strict=True))
    won = {name: successes(report) for name, report in reports.items()}
    null, chance = successes(idle(work, episodes)), with_other_goals(run, episodes)
    shared = {
        "command": COMMAND,
        "commit": claim_run.commit(),
        "seeds": (options.seed,),
        "cpu_s": claim_run.recorded_cpu_s(run),
    }
    by_steps = {n: won["plain" if n == 3 else f"ddim_{n}"] for n in STEPS}
    claim_run.write(few_steps(by_steps, null, shared), options.out, "policies", "beso_play_steps")
    by_guidance = {g: won["plain" if g == 1.0 else f"guidance_{g:g}"] for g in GUIDANCE}
    claim_run.write(guided(by_guidance, chance, shared), options.out, "policies", "beso_play_guidance")


if __name__ == "__main__":
    main()
