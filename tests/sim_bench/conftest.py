"""A benchmark and its card in a folder of YAML of their own; processes that a test leaves behind fail it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

CARD = """
name: fake_point
description: A point in the plane
action_space: custom
state_space: custom
action_reference: normalised
control_hz: 20
setpoint_hz: 20
joints: []
arms: []
home: {}
custom_state:
  - {name: position.x, unit: m, lower: -10, upper: 10}
  - {name: position.y, unit: m, lower: -10, upper: 10}
custom_action:
  - {name: push.x, unit: normalised, lower: -1, upper: 1}
  - {name: push.y, unit: normalised, lower: -1, upper: 1}
cameras:
  - {name: top, width: 8, height: 6, fovy_deg: 60, mount: world, position_m: [0, 0, 1], quaternion: [1, 0, 0, 0]}
"""
BENCHMARK = """
description: A point that goes to a goal
adapter: {adapter}:Fake
embodiment: fake_point
example_task: point
checked: true
deadline_s: {{start: 60, make: 20, reset: 20, step: {step}, render: 20}}
"""


def children() -> set[int]:
    """Living child processes of this one, without multiprocessing's own helper, which stays."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
            command = path.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z" and b"resource_tracker" not in command:
            found.add(int(path.parent.name))
    return found


@pytest.fixture(autouse=True)
def bench_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """``fake/<task>`` is a benchmark while a test runs; ``impatient/<task>`` the same with a deadline of a second."""
    adapter = Path(__file__).parent / "fake_adapter.py"
    root = tmp_path / "configs"
    for name, step in (("fake", 30), ("impatient", 1)):
        path = root / "benchmark" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(BENCHMARK.format(adapter=adapter, step=step))
    (root / "embodiment").mkdir()
    (root / "embodiment" / "fake_point.yaml").write_text(CARD)
    memory = tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setenv("ROBOPOLICY_CONFIG_PATH", str(root))
    monkeypatch.setenv("ROBOPOLICY_BENCH_HOME", str(tmp_path / "bench"))
    monkeypatch.setenv("FAKE_BENCH_MEMORY", str(memory))
    before = children()
    yield root
    assert not children() - before, "a process was left behind"
