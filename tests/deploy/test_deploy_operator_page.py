"""The operator's page in a real browser, in front of a live daemon: it shows the arm, stops it, and never pretends.

The robot is the kinematic plant, the policy a sine. Only what comes after what is asserted, never how long it takes.
"""

import os
import signal
from pathlib import Path

import pytest

from robopolicy.deploy.config import DaemonConfig, DeployConfig, OperatorConfig, RobotConfig
from robopolicy.deploy.daemon import Daemon
from robopolicy.deploy.operator import page_url

pytest.importorskip("aiohttp")
from operator_browser import CHROMIUM, Browser

ROBOT = RobotConfig(
    target="robopolicy.deploy.drivers.sim_robot:SimRobotDriver",
    embodiment="panda",
    process="robopolicy.deploy.drivers.sim_process",
    plant="operator_plant:PicturePlant",
)
SWEEP = "robopolicy.deploy.scripted:sweep"
HERE = Path(__file__).parent


def config(**tunables):
    patient = {"lookahead_ticks": 10, "robot_timeout_s": 1.0, "robot_watchdog_s": 0.5, "supervisor_timeout_s": 5.0}
    deploy = DeployConfig(**patient | {"operator": OperatorConfig(port=0)} | tunables)
    return DaemonConfig(SWEEP, ROBOT, deploy, cameras=("front",))


browser_only = pytest.mark.skipif(CHROMIUM is None, reason="no chromium")


@pytest.fixture
def plant_path(monkeypatch):
    """Lets the robot's process import the plant of these tests."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))


def shows(state):
    return f"document.getElementById('state').textContent === '{state}'"


def again(daemon):
    """The machine stood still for a while, which is not what is tested here: go on."""

    def step():
        status = daemon.status()
        if status["state"] == "HOLD" and status["reason"] in ("overrun", ""):
            daemon.request("start")
        elif status["state"] == "FAULT":
            daemon.up()

    return step


@browser_only
def test_in_a_real_browser_it_shows_the_arm_and_stops_it(tmp_path, plant_path):
    daemon = Daemon(tmp_path, config())
    try:
        daemon.up()
        url = page_url(tmp_path)
        with Browser(url) as page:
            page.wait(shows("HOLD"))
            page.click("[data-event=start]")
            page.wait(shows("RUNNING"), during=again(daemon))
            seen = page.text("[data-joint=joint2] .value")
            page.wait(f"document.querySelector('[data-joint=joint2] .value').textContent !== {seen!r}")
            left, right = page.wait(
                "(() => { const c = document.querySelector('canvas[data-camera=front]'), p = c.getContext('2d');"
                " const at = (x, y) => [...p.getImageData(x, y, 1, 1).data];"
                " return at(10, 80)[3] === 255 && [at(10, 80), at(80, 10)]; })()"
            )
            assert left[0] > 180 > 90 > left[1]
            assert right[1] > 180 > 90 > right[0]
            page.wait("document.querySelectorAll('#processes li').length >= 5")
            page.wait("[...document.querySelectorAll('#log li')].some(l => l.textContent.includes('asked: start'))")
            page.wait("document.querySelector('[data-cell=\"latency_ms.p95\"]').textContent !== '-'")
            presses = (
                lambda: page.click("#stop"),
                lambda: page.key(" ", "Space", 32),
                lambda: (
                    page.run("document.querySelector('[data-event=pause]').focus()"),
                    page.key("Escape", "Escape", 27),
                ),
                lambda: (
                    page.run("document.getElementById('stop').focus()"),
                    page.key("Enter", "Enter", 13, kinds=("keyDown", "keyUp")),
                ),
            )
            for press in presses:
                page.wait(shows("RUNNING"), during=again(daemon))
                press()
                page.wait(shows("HOLD"))
                page.wait("document.getElementById('reason').textContent === 'stopped by the operator'")
                daemon.request("start")
            assert sum(daemon.status()["report"]["violations"].values()) == 0
            token = url.rpartition("=")[2]
            assert token not in page.run("location.href")
            assert page.requests
            assert all(r.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:")) for r in page.requests)
            assert not any(token in r for r in page.requests)
            assert page.errors == []
            assert page.run("document.getElementById('alarm').hidden")  # control: it is not always red
            os.kill(daemon.process.pid, signal.SIGKILL)
            page.wait("document.documentElement.dataset.link === 'lost' && !document.getElementById('alarm').hidden")
            assert "No data for" in page.text("#alarm")
            assert page.text("#state") == "UNKNOWN"
            assert page.run("getComputedStyle(document.getElementById('alarm')).backgroundColor") == "rgb(196, 22, 28)"
            page.click("#stop")
            page.wait("document.getElementById('alarm').textContent.startsWith('STOP WAS NOT CONFIRMED')")
    finally:
        daemon.close()


@browser_only
def test_in_a_real_browser_a_held_key_lets_it_run_and_its_release_stops_it(tmp_path, plant_path):
    with Daemon(tmp_path, config(deadman=True, deadman_timeout_s=2.0)) as daemon:
        daemon.up()
        address = page_url(tmp_path).partition("#")[0]
        with Browser(address) as page:  # without its token
            page.wait("!document.getElementById('ask').hidden")
            page.run(f"document.getElementById('token').value = {(tmp_path / 'operator.token').read_text()!r}")
            page.run("document.getElementById('ask').requestSubmit()")
            page.wait(shows("HOLD"))
            page.key("h", "KeyH", 72, kinds=("rawKeyDown",))
            page.wait("document.querySelector('#hold[aria-pressed=true]') !== null")
            page.wait("page.live.deadman_ms !== null && page.live.deadman_ms < 2000")
            page.click("[data-event=start]")
            page.wait(shows("RUNNING"), during=again(daemon))
            page.key("h", "KeyH", 72, kinds=("keyUp",))
            page.wait(shows("HOLD"))
            assert daemon.status()["reason"] in ("deadman_lost", "overrun")
            page.wait("document.getElementById('events').children.length > 0")
            page.click("[data-event=start]")  # control: without the key it does not go on
            page.wait("document.getElementById('reason').textContent === \"the dead-man's key was let go\"")
            assert page.errors == []
