"""What a job can know before it looks for a service: its input, its output, and its parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cluster.corpus.plan.inputs import Inputs, find_inputs
from cluster.corpus.plan.parts import Plan, plan_parts
from cluster.corpus.settings import Settings
from cluster.corpus.write.output import Output, open_output


@dataclass(frozen=True)
class OpenedJob:
    """A job whose input has been found and cut into parts, and whose output can be used."""

    settings: Settings
    output: Output
    inputs: Inputs
    plan: Plan

    @property
    def parts_in_place(self) -> str:
        """Says how many parts the output holds, such as ``3 of 40 parts are written and kept``."""
        names = {part.name for part in self.plan.parts}
        count = len(names & self.output.part_names())
        return f"{count:,} of {len(names):,} parts are written and kept"


def open_job(settings: Settings, say: Callable[[str], None]) -> OpenedJob:
    """Finds and checks everything that needs no service, and no Ray: that takes seconds to import.

    ``say`` is called with what is read and what is not. Raises JobError.
    """
    output = open_output(settings.output, settings.format)
    output.check()
    if settings.format == "lance":
        from cluster.corpus.write.lance import check_lance

        check_lance(output.fs)
    inputs = find_inputs(settings.input, settings.input_format, settings.output, settings.delimiter)
    count = len(inputs.files)
    say(f"reading {count:,} file{'' if count == 1 else 's'} of {settings.input}")
    if inputs.not_read:
        say(inputs.not_read)
    return OpenedJob(
        settings, output, inputs, plan_parts(inputs.filesystem, inputs.files, settings)
    )
