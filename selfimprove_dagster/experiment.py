"""What an experiment is: the settings of each method, every field settled.

`experiment_files` reads them from YAML.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from selfimprove_dagster.judge_sections import (
    ComparisonFile,
    ComparisonPoolSection,
    ConstitutionSection,
    DialogueEvaluationSection,
    JudgeChecksSection,
    JudgeSection,
    PolicyTrainingSection,
    PreferenceFilterSection,
    PromptFile,
    ResponseSection,
    ReviewSection,
    RevisionFilterSection,
    RevisionSection,
    RewardModelSection,
    SupervisedStepSection,
)
from selfimprove_dagster.methods.dialogues import TURN_STOPS
from selfimprove_dagster.naming import NAME_PATTERN
from selfimprove_dagster.pit_sections import (
    ComparisonSource,
    CurriculumSection,
    GapChecksSection,
    ImprovementEvaluationSection,
    ImproverSection,
    ReferenceSection,
    WinRateSection,
)
from selfimprove_dagster.refinement_sections import RefiningSection
from selfimprove_dagster.sections import (
    BudgetSection,
    DemonstrationSection,
    EvaluationSection,
    FilterSection,
    GeneratorSection,
    ModelSection,
    PathTrainingSection,
    PromotionSection,
    QuestionFile,
    SamplingSection,
    Section,
    TrainingSection,
    VotingSection,
)
from selfimprove_dagster.self_knowledge_sections import (
    CandidateSection,
    DiscriminationSection,
    KnowledgeTask,
    SelfKnowledgeSection,
)
from selfimprove_dagster.task_sections import (
    ClassificationSection,
    ElicitationSection,
    InstanceSection,
    OutputSection,
    ParaphraseSection,
    TaskEvaluationSection,
    TaskFile,
    TaskFilterSection,
    TaskGenerationSection,
)
from selfimprove_dagster.tool_sections import (
    AnnotationSection,
    CallFilterSection,
    TextFile,
    ToolEvaluationSection,
    ToolsSection,
)


class Experiment(Section):
    """What the experiments of all methods have; every field is settled."""

    scores: ClassVar[bool] = False
    """Whether the generator is asked for log-probabilities of given texts, which not every server gives."""
    ends_with: ClassVar[str] = "promotion"
    """The stage with which an iteration is finished."""

    name: str = Field(
        pattern=NAME_PATTERN, description="small letters, digits, underscores; equals the file name"
    )
    description: str = Field("", description="one line for people")
    preset: Literal["paper", "practical"] = Field("practical", description="where left-out fields come from")
    method: str = Field(description="the self-improvement method")
    methods: tuple[str, ...] = Field(
        (), description="several methods, which take turns in each iteration on the same line of champions"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="from which every random choice follows")
    model: ModelSection
    budget: BudgetSection = BudgetSection()

    @property
    def drawn_by(self) -> Literal["base", "champion"]:
        """The model that an iteration generates with, as the section of its generator says."""
        sections = (getattr(self, name) for name in type(self).model_fields)
        return next((one.drawn_by for one in sections if isinstance(one, GeneratorSection)), "champion")

    @property
    def chain(self) -> tuple[str, ...]:
        """The methods of the experiment in the order in which an iteration runs them."""
        return self.methods or (self.method,)

    @property
    def taught_by(self) -> str | None:
        """The experiment whose preferences are the seeds of this one, if they come of one."""
        return None

    @property
    def turn_name(self) -> str:
        """The name by which commands and pages know it: in a chain with the method, `<name>.<method>`."""
        return f"{self.name}.{self.method}" if len(self.chain) > 1 else self.name

    @property
    def decided_in(self) -> str:
        """The mode of the exam by which a checkpoint is compared with the champion."""
        return "greedy"

    def partition_key(self, iteration: int) -> str:
        """Dagster's key for one iteration, `<name>-<NNN>`."""
        return f"{self.name}-{iteration:03d}"


class SeededExperiment(Experiment):
    """What the methods have that begin with a file of seeds."""

    seeds: QuestionFile | TaskFile | TextFile | PromptFile | ComparisonFile


class TrainingExperiment(SeededExperiment):
    """What the methods have that train a model and promote it."""

    evaluation: EvaluationSection | TaskEvaluationSection | ToolEvaluationSection | DialogueEvaluationSection
    training: TrainingSection
    promotion: PromotionSection = PromotionSection()


class LmsiExperiment(TrainingExperiment):
    """Self-consistency as a teacher (Huang et al., 2210.11610)."""

    method: Literal["lmsi"] = Field("lmsi", description="the self-improvement method")
    seeds: QuestionFile
    evaluation: EvaluationSection
    demonstrations: DemonstrationSection
    sampling: SamplingSection
    voting: VotingSection = VotingSection()
    filter: FilterSection
    training: PathTrainingSection

    @model_validator(mode="after")
    def _demonstrations_where_needed(self) -> LmsiExperiment:
        few_shot = self.sampling.prompt_format == "few_shot_cot" or any(
            share > 0 for name, share in self.training.formats.items() if name.startswith("few_shot")
        )
        if few_shot and self.demonstrations.count == 0:
            raise ValueError("few-shot formats are used, so demonstrations.count must be at least 1")
        return self


class SelfInstructExperiment(TrainingExperiment):
    """A pool of tasks that the model itself extends (Wang et al., 2212.10560)."""

    scores = True
    method: Literal["self_instruct"] = Field(description="the self-improvement method")
    seeds: TaskFile
    evaluation: TaskEvaluationSection
    generation: TaskGenerationSection
    classification: ClassificationSection
    instances: InstanceSection
    filter: TaskFilterSection


class UnnaturalInstructionsExperiment(TrainingExperiment):
    """Three demonstrations elicit a fourth (Honovich et al., 2212.09689)."""

    scores = True
    method: Literal["unnatural_instructions"] = Field(description="the self-improvement method")
    seeds: TaskFile
    evaluation: TaskEvaluationSection
    generation: ElicitationSection
    outputs: OutputSection
    paraphrases: ParaphraseSection


class ToolformerExperiment(TrainingExperiment):
    """A model that teaches itself to call tools (Schick et al., 2302.04761)."""

    scores = True
    method: Literal["toolformer"] = Field(description="the self-improvement method")
    seeds: TextFile
    evaluation: ToolEvaluationSection
    tools: ToolsSection
    annotation: AnnotationSection
    filter: CallFilterSection

    @property
    def answering_model(self) -> str | None:
        """The model that QA and MT ask; None where neither is among the tools."""
        return (self.tools.answered_by or self.model.path) if {"QA", "MT"} & {*self.tools.names} else None

    @property
    def chain(self) -> tuple[str, ...]:
        """The methods of the experiment in the order in which an iteration runs them."""
        return self.methods or (self.method,)

    @property
    def decided_in(self) -> str:
        """The mode of the exam by which a checkpoint is compared with the champion."""
        return "with_tools"


class DialogueExperiment(TrainingExperiment):
    """What the methods have in which responses to people are judged."""

    evaluation: DialogueEvaluationSection


class ConstitutionalExperiment(DialogueExperiment):
    """A model that criticises and revises itself by principles (Bai et al., 2212.08073, section 3)."""

    method: Literal["constitutional"] = Field(description="the self-improvement method")
    seeds: PromptFile
    constitution: ConstitutionSection
    responses: ResponseSection
    revisions: RevisionSection
    filter: RevisionFilterSection

    @model_validator(mode="after")
    def _round_is_made(self) -> ConstitutionalExperiment:
        if self.filter.round is not None and self.filter.round > self.revisions.rounds:
            raise ValueError(
                f"filter.round is {self.filter.round}, but revisions.rounds makes {self.revisions.rounds}"
            )
        return self


class PreferenceExperiment(DialogueExperiment):
    """What RLAIF and RLHF share: a policy that learns from pairs of responses."""

    preferences: PreferenceFilterSection
    reward_model: RewardModelSection
    training: PolicyTrainingSection

    @property
    def rewards_with_model(self) -> bool:
        """Whether a reward model is needed."""
        return self.training.algorithm != "dpo" and self.training.reward == "reward_model"


class RlaifExperiment(PreferenceExperiment):
    """Feedback of a model in place of people's (Lee et al., 2309.00267; Bai et al., 2212.08073)."""

    method: Literal["rlaif"] = Field(description="the self-improvement method")
    seeds: PromptFile
    constitution: ConstitutionSection
    responses: ResponseSection
    judge: JudgeSection
    judge_checks: JudgeChecksSection = JudgeChecksSection()
    review: ReviewSection = ReviewSection()
    self_knowledge: SelfKnowledgeSection = SelfKnowledgeSection()


class RlhfExperiment(PreferenceExperiment):
    """Feedback of people, the baseline (Ouyang et al., 2203.02155)."""

    method: Literal["rlhf"] = Field(description="the self-improvement method")
    seeds: ComparisonFile
    pool: ComparisonPoolSection
    supervised: SupervisedStepSection

    @model_validator(mode="after")
    def _people_judge(self) -> RlhfExperiment:
        if self.training.reward == "judge":
            raise ValueError("training.reward is `judge`, but people judge here; use the method rlaif")
        return self


class RefinementExperiment(SeededExperiment):
    """Answers that get better while they are given (Self-Refine, 2303.17651; Reflexion, 2303.11366)."""

    ends_with = "evaluation"
    method: Literal["refinement"] = Field(description="the self-improvement method")
    seeds: PromptFile
    responses: ResponseSection
    refining: RefiningSection
    evaluation: DialogueEvaluationSection
    self_knowledge: SelfKnowledgeSection = SelfKnowledgeSection()


class SelfKnowledgeExperiment(Experiment):
    """Whether a model can judge itself: generation against discrimination (Jiang et al., 2404.04298)."""

    scores = True
    ends_with = "discrimination_gap"
    method: Literal["self_knowledge"] = Field(description="the self-improvement method")
    of: str | None = Field(
        None,
        pattern=NAME_PATTERN,
        description="the experiment whose current champion is measured, in place of model.path",
    )
    tasks: tuple[KnowledgeTask, ...] = Field(min_length=1, description="what the model is measured on")
    constitution: ConstitutionSection
    candidates: CandidateSection
    discrimination: DiscriminationSection

    @model_validator(mode="after")
    def _names_differ(self) -> SelfKnowledgeExperiment:
        names = [task.name for task in self.tasks]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"tasks must have different names; twice: {', '.join(sorted(twice))}")
        return self

    @property
    def stops(self) -> list[str]:
        """The strings that end a candidate."""
        if self.candidates.stop is not None:
            return self.candidates.stop
        kinds = {task.kind for task in self.tasks}
        return [*(TURN_STOPS if "dialogues" in kinds else ()), *(["\n\nQ:"] if "questions" in kinds else ())]


class PitExperiment(DialogueExperiment):
    """Improvement learnt from preferences, without being told how (Wang et al., 2310.00898)."""

    method: Literal["pit"] = Field(description="the self-improvement method")
    seeds: ComparisonSource
    evaluation: ImprovementEvaluationSection
    pool: ComparisonPoolSection
    preferences: PreferenceFilterSection
    improver: ImproverSection
    gap_reward_model: RewardModelSection
    gap_checks: GapChecksSection = GapChecksSection()
    curriculum: CurriculumSection
    references: ReferenceSection
    training: PolicyTrainingSection
    constitution: ConstitutionSection
    win_rates: WinRateSection = WinRateSection()

    @model_validator(mode="after")
    def _competing_round_is_made(self) -> PitExperiment:
        if self.win_rates.round > self.evaluation.rounds:
            raise ValueError(
                f"win_rates.round is {self.win_rates.round}, but evaluation.rounds makes "
                f"{self.evaluation.rounds}"
            )
        return self

    @model_validator(mode="after")
    def _gap_rewards(self) -> PitExperiment:
        if self.training.algorithm == "dpo" or self.training.reward != "reward_model":
            raise ValueError(
                "a policy is rewarded by the gap here: training.algorithm is grpo or rloo, and "
                "training.reward is reward_model"
            )
        return self

    @property
    def taught_by(self) -> str | None:
        """The experiment whose preferences are the seeds of this one, if they come of one."""
        return self.seeds.experiment

    @property
    def decided_in(self) -> str:
        """The mode of the exam by which a checkpoint is compared with the champion."""
        return self.evaluation.decided_in


EXPERIMENTS: dict[str, type[Experiment]] = {
    "lmsi": LmsiExperiment,
    "self_instruct": SelfInstructExperiment,
    "unnatural_instructions": UnnaturalInstructionsExperiment,
    "toolformer": ToolformerExperiment,
    "constitutional": ConstitutionalExperiment,
    "rlaif": RlaifExperiment,
    "rlhf": RlhfExperiment,
    "refinement": RefinementExperiment,
    "self_knowledge": SelfKnowledgeExperiment,
    "pit": PitExperiment,
}
"""What an experiment file of each method holds."""
