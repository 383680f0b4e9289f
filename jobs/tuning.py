"""Tuning from the web page: a job per use case with a form of two numbers, which goes on where the last one ended."""

import dagster as dg
from pydantic import Field

from contrail import tuning, tuning_report
from contrail.lake import LakeError
from contrail.training import TrainingError
from contrail.tuning import TuningError
from contrail.use_case import UseCase
from feature_repo.use_cases import USE_CASES
from resources.lake import LakeResource
from resources.plots import inline_png


class TuneForm(dg.Config):
    """How long to search; fewer trials than there are already make none."""

    trials: int = Field(
        gt=0, description="Finished trials the study shall have in all, those of earlier runs included."
    )
    seconds: float = Field(gt=0, description="Wall seconds for this run; a trial that has begun ends.")


def build() -> list[dg.JobDefinition]:
    """``tune_<use case>`` of every use case; never part of another job."""
    return [_job(use_case) for use_case in USE_CASES.values()]


def _job(use_case: UseCase) -> dg.JobDefinition:
    name = f"tune_{use_case.name}"

    @dg.op(
        name=f"{name}_study",
        description="Tries learning parameters on time-ordered folds of the training set, the declared ones first.",
    )
    def study(context: dg.OpExecutionContext, config: TuneForm, lake: dg.ResourceParam[LakeResource]) -> None:
        def tell(progress: tuning.Progress) -> None:
            context.log.info(
                f"trial {progress.trial.number} {progress.trial.state}: {progress.trial.loss:.5f}, "
                f"best {progress.best:.5f}; {progress.finished} of {progress.target}, "
                f"{progress.seconds_left:,.0f} s left"
            )

        try:
            with lake.connect() as con:
                given = tuning.read_training_set(lake.lake, con, use_case)
            found = tuning.tune(
                given,
                use_case,
                storage=lake.settings.home / tuning.FOLDER / f"{use_case.name}.db",
                trials=config.trials,
                seconds=config.seconds,
                threads=lake.settings.model_threads,
                progress=tell,
            )
        except (TuningError, TrainingError, LakeError) as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        context.log.info(found.verdict)
        context.add_output_metadata(
            {
                "verdict": found.verdict,
                "best": tuning_report.declaration(found.best.learning),
                "declared": tuning_report.declaration(use_case.learning),
                "study": dg.MetadataValue.md(tuning_report.markdown(found, title=use_case.title)),
                "plateau": inline_png(tuning_report.plateau(found, title=use_case.title)),
            }
        )

    @dg.job(name=name, description=f"{use_case.title}: what other learning parameters would be worth.")
    def tune() -> None:
        study()

    return tune
