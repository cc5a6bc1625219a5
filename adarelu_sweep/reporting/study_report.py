"""What the tracker is told of a study: its report, its arms' mean curves, its best trial."""

from pathlib import Path

from adarelu_sweep.reporting.curves import deviation_curve, mean_curve
from adarelu_sweep.reporting.formats import as_summary
from adarelu_sweep.reporting.palette import Palette
from adarelu_sweep.reporting.results import Arm, Results, SeedResult
from adarelu_sweep.reporting.table import fixed
from adarelu_sweep.tracking.study_report import ArmCurves, BestTrial, StudyReport
from adarelu_sweep.training.description import Description
from adarelu_sweep.wording import count

_METRICS = ("train/loss", "train/accuracy", "test/loss", "test/accuracy")


def study_report(results: Results, folder: Path) -> StudyReport:
    """Return the report that lies in a folder, with what else the tracker shows of the study."""
    palette = Palette(results.activations)
    arms = [
        curves
        for position, block in enumerate(results.blocks)
        for arm in block.arms
        if (curves := _arm_curves(arm, palette.tint(arm.activation, position)))
    ]
    best = _best(results) if results.study.report.register_model else None
    remark = None
    if best is not None and results.study.execution.keep == "none":
        best, remark = None, "no model is registered: the study keeps none (execution.keep)"
    return StudyReport(folder, as_summary(results), arms, best, remark)


def _arm_curves(arm: Arm, colour: str) -> ArmCurves | None:
    """Take an arm's trials together; None if none has a history.

    The probes stay with the trials and the report: MLflow would draw them above the accuracies.
    """
    metrics = {}
    for name in _METRICS:
        curves = arm.averaged(name)
        if mean := mean_curve(curves):
            metrics[name] = mean
        if deviation := deviation_curve(curves):
            metrics[f"{name}_std"] = deviation
    if not metrics:
        return None
    settings = {key: str(value) for key, value in arm.settings.flattened().items() if key != "seed"}
    seeds = f"{'mean of ' if arm.n > 1 else ''}{count(arm.n, 'seed')}"
    return ArmCurves(
        name=f"{arm.activation}, {arm.network}, {arm.dataset}: {seeds}",
        arm=arm.settings.arm,
        params=settings | {"seeds": str(arm.n)},
        metrics=metrics,
        colour=colour,
    )


def _best(results: Results) -> BestTrial | None:
    """Return the finished trial with the highest test accuracy, of equal ones the first.

    None where all diverged, or where none is finished.
    """
    candidates = [
        (arm, trial) for arm in results.arms for trial in arm.trials if not trial.result.diverged
    ]
    if not candidates:
        return None
    arm, trial = min(candidates, key=lambda pair: (-pair[1].result.accuracy, pair[1].number))
    return BestTrial(
        key=str(trial.number),
        folder=trial.folder,
        results=trial.place,
        description=(
            f"Trial {trial.number} of the study {results.name}: {arm.settings.arm}, seed "
            f"{trial.seed}, {trial.result.epochs} epochs, test accuracy "
            f"{fixed(trial.result.accuracy)} %. It was chosen among {len(candidates)} trials by "
            "this same test accuracy, so the figure is optimistic: expect less on new images."
            + _kept(results, trial)
            + (f" {results.subset}" if results.subset else "")
        ),
    )


def _kept(results: Results, trial: SeedResult) -> str:
    """Say which epoch's weights were kept, where it need not be the last one's."""
    if results.study.execution.keep != "best":
        return ""
    try:
        model = Description.read(trial.place)
    except (OSError, ValueError):  # what is wrong with it, its registration will say
        return ""
    if model.epoch is None or model.accuracy is None:
        return ""
    return (
        f" Its weights are those of its best epoch, number {model.epoch}, with a test accuracy of "
        f"{fixed(model.accuracy)} %, which is more optimistic still."
    )
