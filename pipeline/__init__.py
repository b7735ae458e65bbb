"""The pipeline around the library: stages that DVC runs, their records, reports, studies and schedules."""

from vrpo.moved import forward

forward(
    {  # commands by their names of before the rooms
        "pipeline.prepare": "pipeline.stages.prepare",
        "pipeline.validate": "pipeline.stages.validate",
        "pipeline.base": "pipeline.stages.base",
        "pipeline.label": "pipeline.stages.label",
        "pipeline.sft": "pipeline.stages.sft",
        "pipeline.reward": "pipeline.stages.reward",
        "pipeline.train": "pipeline.stages.train",
        "pipeline.evaluate": "pipeline.stages.evaluate",
        "pipeline.critic": "pipeline.stages.critic",
        "pipeline.report": "pipeline.stages.report",
        "pipeline.benchmark": "pipeline.tools.benchmark",
        "pipeline.replay": "pipeline.tools.replay",
        "pipeline.check": "pipeline.tools.check",
        "pipeline.serve": "pipeline.orchestration.serve",
    }
)
