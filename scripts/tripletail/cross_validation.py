"""Cross-validation of a recipe: every question is held out once, so that a small set is tested whole.

    tripletail cross-validate --config faq.yaml --folds 5

Fold i of k is a run of the recipe with other groups in the test split, in `{run}/folds/i`; the groups of all folds
together are all groups whose split no source states. What is said of a model is the mean over all queries, each of the
fold that held it out, and the test is paired by query, as in a report. A fold that is finished is left alone.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.core import config
from pipeline.core.errors import UserError
from pipeline.core.progress import say
from pipeline.report.run_comparison import RunComparison
from pipeline.storage.files import join

from . import recipe as recipes

JOBS_OF_A_FOLD = ("build", "mine", "train", "evaluate")


def cross_validate(recipe: recipes.Recipe, folds: int, run: str | None, guard: recipes.Guard) -> RunComparison:
    """Run all folds of a recipe and pool their test queries.

    Raises UserError for a recipe without build, train and evaluate, and where no split is the recipe's to choose.
    """
    with guard("cross-validate"):
        content = config.load_recipe(recipe)
        if missing := [job for job in ("build", "train", "evaluate") if job not in content]:
            raise UserError(f"{config.recipe_name(recipe)}: has no section '{missing[0]}:', which a fold needs")
    home = run or str(content.get("run") or "runs/cross-validation")
    paths = [join(home, "folds", str(fold)) for fold in range(folds)]
    steps = [_steps(content, folds, fold, path, recipe, guard) for fold, path in enumerate(paths)]
    recipes.preflight(steps[0], guard)
    for fold, of_fold in enumerate(steps):
        say(f"cross-validate: fold {fold + 1} of {folds}: {paths[fold]}")
        recipes.execute(of_fold, guard)
    from pipeline.evaluation.run_comparison import pool_folds

    with guard("cross-validate"):
        return pool_folds(paths)


def _steps(
    content: Mapping[str, Any], folds: int, fold: int, path: str, recipe: recipes.Recipe, guard: recipes.Guard
) -> list[recipes.Step]:
    """The jobs of a fold, in the order of the data."""
    over: dict[str, dict[str, Any]] = {job: {"run": path} for job in JOBS_OF_A_FOLD if job in content}
    over["build"]["split"] = fold_shares((content["build"] or {}).get("split") or {}, folds, fold)
    over["evaluate"]["split"] = "test"
    steps = []
    for job, settings in over.items():
        with guard(job):
            steps.append(recipes.resolve(job, recipe, settings, f"{job} of fold {fold + 1}"))
    return steps


def fold_shares(split: Mapping[str, Any], folds: int, fold: int) -> dict[str, float]:
    """Shares of a fold: one part of `folds` is test, dev is as before, at most half of the rest, train what is left."""
    test = 1 / folds
    dev = min(float(split.get("dev", 0.1)), (1 - test) / 2)
    return {"train": 1 - test - dev, "dev": dev, "test": test, "rotation": fold / folds}
