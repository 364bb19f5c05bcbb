"""What a wheel holds: one top-level package, with what its commands need from experiments/.

Everything else about the project is in pyproject.toml, whose tables cannot add mapped folders to
the packages that are found.
"""

from setuptools import find_packages, setup

# Package of the wheel: folder of a clone. `cd4lm_jax.bundled` finds them in either place.
MAPPED = {
    "cd4lm_jax.configs": "experiments/configs",
    "cd4lm_jax.bundled.gsm_mini_teacher": "experiments/checkpoints/gsm_mini_teacher",
    "cd4lm_jax.bundled.gsm_mini_answers": "experiments/data/gsm_mini_answers",
}

setup(
    packages=[*find_packages(include=["cd4lm_jax*"]), *MAPPED],
    package_dir=MAPPED,
    package_data={
        # The tokenizer of gsm_mini, templates of pages.
        "cd4lm_jax": ["py.typed", "**/*.json", "**/*.jinja", "**/*.j2", "**/*.css", "**/*.js"],
        "cd4lm_jax.bundled.gsm_mini_teacher": ["**/*"],
        "cd4lm_jax.bundled.gsm_mini_answers": ["*"],
    },
    include_package_data=False,
)
