"""What pufferlib_kcore needs, in ranges that plain pip can meet beside PufferLib's own stale pins.

Under plain pip on Python 3.11 these pins win: numpy 1.23.3, gymnasium 0.29.1, opencv-python 3.4.17.63,
psutil 5.9.5. uv lifts them as pyproject.toml says.
"""

from setuptools import find_packages, setup

setup(
    packages=find_packages(include=["pufferlib_kcore", "pufferlib_kcore.*"]),
    package_data={
        "pufferlib_kcore": [
            "py.typed",
            "config/*.ini",
            "config/atari/*.ini",  # not config/local/, which is this machine's
            "config/policies/*.ini",
            "analysis/templates/*.html",
            "analysis/board/static/*",
        ]
    },
    install_requires=[
        "torch>=2.5,<=2.13.0",
        "pufferlib==2.0.2",
        "numpy>=1.23.3,<2",
        "gymnasium>=0.29.1",
        "ale-py>=0.10",
        "scipy>=1.9",
        "matplotlib>=3.7",
        "jinja2>=3.1",
        "rich>=13",
        "rich-argparse>=1.4",
        "threadpoolctl>=3",
        "tensorboard>=2.11",
        "omegaconf>=2.3,<2.5",
    ],
    extras_require={
        "mujoco": ["gymnasium>=1.1", "mujoco>=3.1"],  # through uv alone: PufferLib pins an older gymnasium
        "sb3": [
            "stable-baselines3>=2.4",
            "sb3-contrib>=2.4",
        ],  # through uv alone, as mujoco
        "connectivity": ["stable-baselines3>=2.4"],  # SAC and DDPG; through uv alone, as mujoco
        "video": ["pygame"],  # pictures of classic control
        "wandb": ["wandb"],
        "onnx": ["onnx", "onnxruntime", "onnxscript"],
        "ray": ["ray"],
        "slurm": ["submitit"],
        "notebook": ["notebook", "ipykernel"],
        "mettagrid": [
            "mettagrid==0.26.22; python_version >= '3.11'"
        ],  # through uv alone: it pins a newer numpy
    },
)
