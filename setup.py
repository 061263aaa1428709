"""Maps the fixed top-level folders onto one import root.

The folders ``data/``, ``sim/``, ``deploy/`` and ``configs/`` stand beside ``robopolicy/`` but are imported
as ``robopolicy.data``, ``robopolicy.sim``, ``robopolicy.deploy`` and ``robopolicy.configs``. ``ROOTS`` is
the only place that knows this.
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

ROOTS = {
    "robopolicy": "robopolicy",
    "robopolicy.data": "data",
    "robopolicy.sim": "sim",
    "robopolicy.deploy": "deploy",
    "robopolicy.configs": "configs",
}
HERE = Path(__file__).parent


def packages_and_folders() -> dict[str, str]:
    """Every package with the folder it lives in, found below the five roots and nowhere else."""
    found: dict[str, str] = {}
    for package, folder in ROOTS.items():
        for init in sorted((HERE / folder).rglob("__init__.py")):
            relative = init.parent.relative_to(HERE / folder)
            name = ".".join([package, *relative.parts])
            found[name] = str(Path(folder) / relative) if relative.parts else folder
    return found


PACKAGES = packages_and_folders()

# Optional: without a C compiler the Python modules beside them do the same work. Contraction to fused operations is
# off so that the control tick rounds alike in both. OpenMP is not linked: torch brings its own, loaded before.
POSIX, LINUX = os.name == "posix", sys.platform == "linux"
NATIVE = Extension(
    "robopolicy.control._native",
    ["robopolicy/control/_native.c"],
    extra_compile_args=["-O3", "-ffp-contract=off"] if POSIX else [],
    optional=True,
)
NORM_MISH = Extension(
    "robopolicy.models._norm_mish",
    ["robopolicy/models/_norm_mish.c"],
    extra_compile_args=["-O3", "-fno-math-errno", "-fno-trapping-math"] + (["-fopenmp"] if LINUX else [])
    if POSIX
    else [],
    optional=True,
)

setup(
    ext_modules=[NATIVE, NORM_MISH],
    packages=sorted(PACKAGES),
    package_dir=PACKAGES,
    include_package_data=False,  # only what stands below: the folders of YAML are data, not packages
    package_data={
        "robopolicy": ["py.typed", "control/*.pyi", "models/*.pyi"],
        "robopolicy.configs": ["**/*.yaml"],
        "robopolicy.sim": ["**/*.xml"],
        "robopolicy.deploy.operator": ["*.html", "*.css", "*.js"],
    },
)
