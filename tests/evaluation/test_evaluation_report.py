"""report.json: complete, strict, whole on the disk, and refused when it is not."""

import dataclasses
import errno
import json
import os
import random
import resource
import sys

import numpy as np
import pytest

from robopolicy.errors import DataError, StorageError
from robopolicy.evaluation import files
from robopolicy.evaluation.report import (
    ReportHeader,
    ReportNotFoundError,
    build_report,
    check_out,
    episodes_of,
    read_report,
    versions,
    write_report,
)
from robopolicy.evaluation.sequential import StopRule
from robopolicy.evaluation.sweep import latency_sweep, variant_table


def test_figures_of_a_known_run(tmp_path, header, outcomes):
    results = outcomes("1101111110")
    report = write_report(tmp_path / "eval", results, {**header, "episodes": range(12)})
    assert (report["successes"], report["n"], report["success_rate"]) == (8, 10, 0.8)
    assert [round(x, 2) for x in report["wilson_95"]] == [0.49, 0.94]
    assert report["success_once"]["successes"] == report["success_at_end"]["successes"] == 8
    assert report["terminations"] == {"success": 8, "timeout": 2}
    assert report["lengths"]["all"]["max"] == 120
    assert report["lengths"]["successes"]["n"] == 8
    assert report["latency"]["inference_ms"]["n"] == 20
    assert report["latency"]["inference_ms"]["max"] == 16.0
    assert report["latency"]["applied_ms"]["mean"] == 50.0
    assert report["safety"]["clipped_ticks"] == sum(i % 3 for i in range(10))
    assert report["safety"]["missing_setpoints"] == 0
    assert report["safety"]["max_seam_velocity_step"] == 0.5
    assert report["missing_episodes"] == [10, 11]
    assert report["cpu_s"] == 5.0
    assert report["header"]["command"] == header["command"]
    assert set(report["versions"]) == {"python", "robopolicy", "numpy", "torch", "mujoco", "zarr"}
    assert read_report(tmp_path / "eval") == report
    assert read_report(tmp_path / "eval" / "report.json") == report
    assert episodes_of(report) == results
    assert sorted(path.name for path in (tmp_path / "eval").iterdir()) == ["report.html", "report.json"]


def test_once_and_at_end_are_told_apart(header, outcomes, episode):
    dropped = episode(5, True, success_at_end=False, termination="timeout")
    report = build_report([*outcomes("11111"), dropped], header)
    assert report["success_once"]["successes"] == 6
    assert report["success_at_end"]["successes"] == report["successes"] == 5


def test_order_of_results_does_not_matter(header, outcomes):
    results = outcomes("110100110101")
    shuffled = random.Random(0).sample(results, len(results))
    assert shuffled != results
    assert build_report(shuffled, header) == build_report(results, header)


def test_mappings_and_a_header_object_do_as_well(header, outcomes):
    results = outcomes("101")
    by_object = build_report(results, ReportHeader(**header))
    assert build_report([result.to_dict() for result in results], header) == by_object


def test_numpy_and_paths_in_the_header(tmp_path, header, outcomes):
    control = {"latency_ms": np.float32(50.0), "gains": np.arange(3)}
    report = build_report(outcomes("1"), {**header, "control": control, "checkpoint": tmp_path})
    assert report["header"]["control"] == {"latency_ms": 50.0, "gains": [0, 1, 2]}
    assert report["header"]["checkpoint"] == str(tmp_path)


def test_a_report_imports_neither_torch_nor_mujoco(tmp_path):
    import subprocess

    code = (
        "import sys, robopolicy.evaluation.report as r, robopolicy.evaluation.compare, robopolicy.evaluation.claims;"
        "assert r.versions()['torch'];"
        "sys.exit(any(name in sys.modules for name in ('torch', 'mujoco', 'zarr', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0
    assert versions()["python"] == ".".join(map(str, sys.version_info[:3]))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"control": {"gain": float("nan")}}, r"header\.control\.gain"),
        ({"extra": {"x": [1, float("inf")]}}, r"header\.extra\.x\[1\]"),
        ({"extra": {"x": object()}}, "cannot be written"),
        ({"task": ""}, "missing task"),
        ({"chekpoint": "a"}, "did you mean 'checkpoint'"),
        ({"task": "stack"}, "does not describe"),
        ({"split": "val"}, "does not describe"),
    ],
)
def test_bad_headers_are_refused_and_nothing_is_written(tmp_path, header, outcomes, change, match):
    with pytest.raises(DataError, match=match):
        write_report(tmp_path / "eval", outcomes("101"), {**header, **change})
    assert not (tmp_path / "eval").exists()


def test_bad_results_are_refused(header, outcomes):
    with pytest.raises(DataError, match="at least one"):
        build_report([], header)
    with pytest.raises(DataError, match="more than once"):
        build_report(outcomes("11") + outcomes("1"), header)


def test_another_checkpoint_is_not_overwritten(tmp_path, header, outcomes):
    first = write_report(tmp_path, outcomes("111"), header)
    other = {**header, "checkpoint_hash": "d1" * 32}
    with pytest.raises(DataError, match=r"checkpoint_hash.*overwrite"):
        write_report(tmp_path, outcomes("000"), other)
    with pytest.raises(DataError, match="policy"):
        check_out(tmp_path, {**header, "policy": "null"})
    assert read_report(tmp_path) == first
    check_out(tmp_path / "elsewhere", other)
    assert write_report(tmp_path, outcomes("110"), header)["successes"] == 2  # the same one may run again
    assert write_report(tmp_path, outcomes("000"), other, overwrite=True)["successes"] == 0


def test_baselines_without_hash_are_told_apart_by_their_path(tmp_path, header, outcomes):
    head = {**header, "checkpoint_hash": None, "checkpoint": "runs/a"}
    write_report(tmp_path, outcomes("1"), head)
    check_out(tmp_path, head)
    with pytest.raises(DataError, match="runs/a"):
        check_out(tmp_path, {**head, "checkpoint": "runs/b"})


def test_missing_report(tmp_path):
    with pytest.raises(ReportNotFoundError, match="robopolicy eval") as caught:
        read_report(tmp_path)
    assert isinstance(caught.value, FileNotFoundError)


def test_every_cut_is_noticed(tmp_path, header, outcomes):
    write_report(tmp_path, outcomes("101"), header)
    path = tmp_path / "report.json"
    whole = path.read_bytes()
    rng = random.Random(1)
    for size in [0, 1, len(whole) // 2, *(rng.randrange(len(whole) - 2) for _ in range(12))]:
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match="cut or altered"):
            read_report(tmp_path)
    path.write_bytes(whole)
    assert read_report(tmp_path)["n"] == 3  # control: the whole file is read


@pytest.mark.parametrize(
    ("alter", "match"),
    [
        (lambda r: r.update(schema_version=2), "another schema"),
        (lambda r: r.pop("schema_version"), "another schema"),
        (lambda r: r.pop("safety"), "without safety"),
        (lambda r: r.update(successes=3), "contradicts itself"),
        (lambda r: r["episodes"].pop(), "contradicts itself"),
        (lambda r: r.update(episodes={}), "per-episode table"),
        (lambda r: r["episodes"][0].pop("length"), "missing length"),
        (lambda r: r["episodes"][0].update(length=-4), "length"),
    ],
)
def test_altered_reports_are_refused(tmp_path, header, outcomes, alter, match):
    report = write_report(tmp_path, outcomes("101"), header)
    alter(report)
    (tmp_path / "report.json").write_text(json.dumps(report))
    with pytest.raises(DataError, match=match):
        read_report(tmp_path)


@pytest.mark.parametrize("text", ["[]", "null", '{"n": NaN}', "\xff", "[" * 100_000])
def test_foreign_files_are_refused(tmp_path, text):
    (tmp_path / "report.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError):
        read_report(tmp_path)


def test_nan_is_not_json(tmp_path):
    for word in ("NaN", "Infinity", "-Infinity"):
        (tmp_path / "a.json").write_text(f'{{"n": {word}}}')
        with pytest.raises(DataError, match=f"{word} is not JSON"):
            files.read_json(tmp_path / "a.json", "file")


def test_full_disk_leaves_the_old_report(tmp_path, header, outcomes, monkeypatch):
    before = write_report(tmp_path, outcomes("111"), header)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StorageError, match=r"No space left.*free space"):
        write_report(tmp_path, outcomes("000"), header)
    monkeypatch.undo()
    assert read_report(tmp_path) == before
    assert not list(tmp_path.glob(".*"))  # no temporary file is left


def test_a_file_that_may_not_grow_is_a_storage_error(tmp_path):
    """The kernel itself refuses the write here, half-way through."""
    path = tmp_path / "report.json"
    files.write_json(path, {"old": True})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StorageError, match="cannot write"):
            files.write_json(path, {"new": "x" * 100_000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files.read_json(path, "file") == {"old": True}
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


def test_out_that_is_a_file(tmp_path, header, outcomes):
    (tmp_path / "eval").write_text("not a folder")
    with pytest.raises(StorageError):
        write_report(tmp_path / "eval", outcomes("1"), header)
    assert (tmp_path / "eval").read_text() == "not a folder"


def test_files_are_readable_by_others(tmp_path):
    mask = os.umask(0o022)
    try:
        files.write_text(tmp_path / "a.txt", "a")
    finally:
        os.umask(mask)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


def test_latency_sweep(tmp_path, header, outcomes):
    points = latency_sweep({200: outcomes("1000000000", latency_ms=200.0), 0: outcomes("1111111111", latency_ms=0.0)})
    assert [point["latency_ms"] for point in points] == [0.0, 200.0]
    assert [point["successes"] for point in points] == [10, 1]
    assert points[1]["applied_ms"]["mean"] == 200.0
    report = write_report(tmp_path, outcomes("11"), header, sweep=points)
    assert read_report(tmp_path)["sweep"] == report["sweep"] == points


def test_latency_sweep_refuses_other_episodes(outcomes, episode):
    with pytest.raises(DataError, match="same episodes"):
        latency_sweep({0: outcomes("11"), 50: outcomes("11", start=1)})
    with pytest.raises(DataError, match="same episodes"):
        latency_sweep({0: outcomes("11"), 50: outcomes("11", initial_state=[9.0])})
    with pytest.raises(DataError, match="no episodes"):
        latency_sweep({0: []})


def test_variants_sequential_and_films_are_shown(tmp_path, header, outcomes):
    runs = {"nominal": outcomes("1110"), "heavy": outcomes("1000")}
    variants = variant_table(runs)
    assert [row["successes"] for row in variants] == [3, 1]
    assert variants[0]["change"] is None
    assert variants[1]["change"] == pytest.approx(-0.5)
    with pytest.raises(DataError, match="different episodes"):
        variant_table({"nominal": outcomes("11"), "heavy": outcomes("1")})
    rule = StopRule(target=0.5)
    sequential = {**rule.state(runs["nominal"]), "used": 4, "planned": 9, "against": None}
    films = {"episodes": [3], "differing": [3]}
    more = {"variants": variants, "sequential": sequential, "films": films}
    force = [dataclasses.replace(r, peak_force_n=7.5, metrics={"overlap": 0.9}) for r in runs["nominal"]]
    report = write_report(tmp_path, [dataclasses.replace(force[0], video="v.webp"), *force[1:]], header, more=more)
    assert report["safety"]["peak_force_n"]["max"] == 7.5
    assert report["metrics"]["overlap"]["n"] == 4
    assert report["clopper_pearson_95"] == report["success_at_end"]["clopper_pearson_95"]
    assert report["success_instant"] is None
    page = (tmp_path / "report.html").read_text()
    for part in ("Robustness", "heavy", "After 4 of at most 9", "ended otherwise the second time", "overlap", "7.5 N"):
        assert part in page
    with pytest.raises(DataError, match="unknown section"):
        build_report(force, header, more={"variant": []})


def test_reports_of_another_variant_are_not_overwritten(tmp_path, header, outcomes):
    first = write_report(tmp_path, outcomes("11"), header)
    assert first["header"]["variant"] == "nominal"
    with pytest.raises(DataError, match="variant: there nominal, now heavy"):
        check_out(tmp_path, {**header, "variant": "heavy"})
