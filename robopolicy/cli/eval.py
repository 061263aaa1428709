"""Evaluate a policy on unseen episodes and write report.json and report.html.

The policy is a run or checkpoint folder, or a baseline: expert, null, random. Task and embodiment are taken from the
checkpoint; a baseline has to be told. Results do not depend on the number of workers. A list of latencies is a sweep:
success against inference latency on the same episodes, as a table and a plot; a list of variants is a robustness table.
With stop=sequential the run ends as soon as it is decided whether the policy is better or worse than another report
(against=) or than a rate (target=); the test may be looked at after every episode.

What no weight depends on may be changed after training: policy.sampler, policy.guidance, policy.action_horizon.

Examples:
  robopolicy eval runs/pick episodes=100 out=runs/pick/eval
  robopolicy eval runs/pick policy.sampler.kind=heun policy.sampler.steps=5 out=runs/pick/heun
  robopolicy eval runs/arms embodiment=panda out=runs/arms/eval_panda
  robopolicy eval runs/arms embodiment=xarm7 like=panda out=runs/arms/zero_shot    # with the ranges of panda
  robopolicy eval policy=null task=pick_place embodiment=panda out=runs/null
  robopolicy eval runs/pick 'latency_ms=[0,50,100,200]' out=runs/pick/latency
  robopolicy eval runs/pick between=rtc 'latency_ms=[0,50,100,200]' out=runs/pick/latency_rtc    # or ensemble, naive
  robopolicy eval runs/pick episodes=100:200 videos=4
  robopolicy eval runs/pick videos=3 film=failures
  robopolicy eval runs/pick 'variant=[nominal,shifted,heavy]' out=runs/pick/robustness
  robopolicy eval runs/a episodes=400 against=runs/b/eval stop=sequential out=runs/a_versus_b
  robopolicy eval policy=expert task=metaworld/reach-v3 out=runs/reach    # robopolicy list benchmarks
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from robopolicy.cli.arguments import parse
from robopolicy.config import setting
from robopolicy.control.between import BetweenConfig
from robopolicy.control.config import ControlConfig
from robopolicy.errors import ConfigError, explain

if TYPE_CHECKING:
    from robopolicy.evaluation.sequential import StopRule

__all__ = ["CONFIG", "EvalConfig", "episode_indices", "run", "split_overrides"]


@dataclass(frozen=True)
class EvalConfig:
    """Keys of ``robopolicy eval``."""

    policy: str | None = setting("run or checkpoint folder, or expert, null, random; also the first argument")
    task: str | None = setting("null: the one it was trained on", registry="task")
    embodiment: str | None = setting("null: the one of the checkpoint; a policy of several robots has to be told")
    like: str | None = setting("robot of the policy that lends its ranges to one that it was not trained for")
    out: str | None = setting("folder of the report; null: eval in the run's folder, or runs/<baseline>")
    episodes: int | str = setting('how many, or indices as "100:200"', ge=1)
    split: Literal["test", "val", "train"] = setting("test was never seen in training")
    variant: str | tuple[str, ...] = setting("nominal, shifted or heavy; a list is a robustness table")
    workers: int = setting("processes that simulate", ge=1)
    inference: Literal["auto", "worker", "shared"] = setting(
        "worker: each holds the policy; shared: one process answers all in batches; auto: shared on CUDA"
    )
    inference_batch: int = setting("rows of every pass of a shared policy", ge=1)
    latency_ms: float | tuple[float, ...] | dict[str, Any] = setting(
        "from observation to action; a list is a sweep; {kind: normal, mean_ms: 50, std_ms: 10}", ge=0
    )
    continue_after_success_s: float = setting("go on after success, to see whether it lasts", ge=0)
    videos: int = setting("how many episodes are filmed", ge=0)
    film: Literal["first", "failures"] = setting("the first episodes, or the first failures, run once more")
    stop: Literal["sequential"] | None = setting("end once a sequential test decides; needs against or target")
    against: str | None = setting("report on the same episodes to be better or worse than")
    target: float | None = setting("success rate to be better or worse than", gt=0, lt=1)
    alpha: float = setting("probability of any wrong decision of the sequential test", gt=0, lt=1)
    margin: float | None = setting("also stop when the difference is surely smaller than this", gt=0, lt=1)
    device: str = setting("auto, cpu, cuda, cuda:1, mps")
    weights: Literal["ema", "raw"] = setting("averaged weights, or those of the last step")
    which: Literal["last", "best"] = setting("checkpoint of a run: the last, or the one chosen by validation loss")
    overwrite: bool = setting("replace a report of something else")
    between: BetweenConfig = setting("naive, ensemble or rtc: how a chunk follows the last; between.strongest=5")
    control: ControlConfig = setting("settings of the executor, for example control.velocity_scale=0.5")


CONFIG = EvalConfig


def run(argv: Sequence[str]) -> int:
    """Roll out, write the report, print the result."""
    own, overrides = split_overrides(argv)
    config = parse(EvalConfig, "eval", own, positional=("policy",))
    indices = episode_indices(config.episodes)
    from robopolicy.assess import evaluate
    from robopolicy.cli.progress import Progress
    from robopolicy.subject import find_subject

    subject = find_subject(
        config.policy, device=config.device, weights=config.weights, which=config.which, overrides=overrides
    )
    run_folder = Path((config.policy or "").partition("@")[0])
    home = run_folder / "eval" if subject.checkpoint else Path("runs") / subject.name
    out = Path(config.out) if config.out else home
    points = [len(swept) for swept in (config.latency_ms, config.variant) if isinstance(swept, tuple)]
    rounds = sum(points) - len(points) + 1
    stop = _stop_rule(config)
    with Progress(f"{subject.name}, split {config.split}", len(indices) * rounds) as bar:
        report = evaluate(
            subject,
            config.task,
            embodiment=config.embodiment,
            like=config.like,
            episodes=indices,
            split=config.split,
            variant=config.variant,
            workers=config.workers,
            inference=config.inference,
            inference_batch=config.inference_batch,
            latency_ms=config.latency_ms,
            control=config.control,
            continue_after_success_s=config.continue_after_success_s,
            between=config.between,
            stop=stop,
            videos=config.videos,
            film=config.film,
            out=out,
            overwrite=config.overwrite,
            command=shlex.join(["robopolicy", "eval", *argv]),
            progress=bar.count,
        )
    _show(report, out)
    return 0


def split_overrides(argv: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Words of the verb, and those of the form ``policy.sampler.steps=5`` as nested parameters of the policy.

    Raises:
        ConfigError: a word that gives no value, or the same parameter twice.
    """
    import yaml

    own: list[str] = []
    overrides: dict[str, Any] = {}
    for word in argv:
        key, equals, text = word.partition("=")
        if not key.startswith("policy."):
            own.append(word)
            continue
        *parents, name = key.split(".")[1:]
        node: Any = overrides
        for parent in parents:
            node = node.setdefault(parent, {}) if isinstance(node, dict) else None
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{key}: " + explain("value cannot be read", given=word, mend=f"{key}=VALUE")) from error
        twice = not isinstance(node, dict) or name in node
        if not equals or not text or not name or twice:
            what = "given twice" if equals and text and twice else "needs a value"
            raise ConfigError(f"{key}: " + explain(what, given=word, mend=f"write {key}=VALUE once"))
        node[name] = value
    return own, overrides


def _stop_rule(config: EvalConfig) -> StopRule | None:
    if config.stop is None:
        if config.against is not None or config.target is not None:
            raise ConfigError(explain("against and target belong to a sequential test", mend="add stop=sequential"))
        return None
    from robopolicy.evaluation.report import episodes_of, read_report
    from robopolicy.evaluation.sequential import StopRule

    against = None
    if config.against is not None:
        against = {episode.key: episode for episode in episodes_of(read_report(config.against))}
    return StopRule(
        against=against, target=config.target, alpha=config.alpha, margin=config.margin, source=config.against
    )


def episode_indices(episodes: int | str) -> range:
    """``100`` or ``"100:200"`` as indices.

    Raises:
        ConfigError: anything else, or an empty range.
    """
    if isinstance(episodes, int):
        return range(episodes)
    first, colon, last = episodes.partition(":")
    if not (colon and first.strip().isdigit() and last.strip().isdigit() and int(first) < int(last)):
        raise ConfigError("episodes: " + explain("not a count or a range", given=episodes, allowed='100 or "100:200"'))
    return range(int(first), int(last))


def _show(report: dict[str, Any], out: Path) -> None:
    from robopolicy.evaluation.page import lost_notice

    low, high = report["wilson_95"]
    head = report["header"]
    print(f"{head['policy']} on {head['task']}, {head['embodiment']}, split {head['split']}")
    print(f"success {report['successes']} of {report['n']} = {report['success_rate']:.3f} ({low:.3f} to {high:.3f})")
    if report["lost"]:
        print(lost_notice(report))
    elif report["lost_attempts"]:
        print(f"the simulation was restarted {report['lost_attempts']} times; every episode was evaluated")
    for point in report["sweep"] or ():
        low, high = point["wilson_95"]
        print(f"  latency {point['latency_ms']:g} ms: {point['rate']:.3f} ({low:.3f} to {high:.3f})")
    for row in report["variants"] or ():
        low, high = row["wilson_95"]
        print(f"  variant {row['variant']}: {row['rate']:.3f} ({low:.3f} to {high:.3f})")
    if report["sequential"]:
        _show_stop(report["sequential"])
    if report["films"] and report["films"]["differing"]:
        print(f"WARNING: episodes {report['films']['differing']} ended otherwise when they were filmed")
    print(f"report: {out / 'report.html'}")


def _show_stop(found: dict[str, Any]) -> None:
    low, high = found["interval"]
    other = f"a rate of {found['null']:g}" if found["kind"] == "target" else str(found["against"])
    words = {"above": f"better than {other}", "below": f"worse than {other}", "equal": f"as good as {other}"}
    decision = words.get(found["decision"], f"not decided against {other}")
    what = "rate" if found["kind"] == "target" else "difference"
    print(f"{decision}: {found['used']} of at most {found['planned']} episodes, {what} {low:+.3f} to {high:+.3f}")
