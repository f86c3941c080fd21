"""One table of all parts of a run that is made of several, beside the pages of their own."""

from collections.abc import Mapping, Sequence

from experiments._evaluation import Settings
from experiments._evaluation_report import COLUMNS, Evaluation, error_remark, evaluation_record
from experiments._folder import RunFolder
from experiments._importance import few_samples
from experiments._progress import print_table
from experiments._report import markdown_table, over_seeds, plus_minus, swept


def write_joint(
    settings: Settings,
    parts: Mapping[str, Evaluation],
    folder: RunFolder,
    left_out: Sequence[str],
) -> None:
    """Write and print one table of all parts of a run, beside the pages of their own.

    Numbers of different data, or of the same in another form, stand in tables of their own.

    Args:
        settings: how they were evaluated.
        parts: what was found, by the name of the part.
        folder: where to.
        left_out: of the other parts, why they are not among them.
    """
    lines = [f"{folder.path.parent.name}: held-out data of all its parts", ""]
    # Parts of one budget and one data set have the same heading, but for what they train.
    for said in dict.fromkeys(done.run.task.table for done in parts.values()):
        own = {name: done for name, done in parts.items() if done.run.task.table == said}
        names = [
            name
            for name in COLUMNS
            if any(name in one.also for done in own.values() for one in done.results)
        ]
        columns = ["part", *(COLUMNS[name][0] for name in names)]
        rows = [
            [
                part if len(done.groups) == 1 else f"{part}, {setting}",
                *(
                    plus_minus(*over_seeds(group, name), COLUMNS[name][1])
                    if name in group[0].also
                    else "–"
                    for name in names
                ),
            ]
            for part, done in own.items()
            for setting, group in done.groups.items()
        ]
        lines += [f"{said}:", "", markdown_table(columns, rows, numbers_right=True), ""]
        print_table(said, columns, rows)
    remarks = error_remark(parts.values())
    remarks += [f"{part}: {remark}" for part, done in parts.items() for remark in done.left_out]
    remarks += left_out
    remarks += few_samples(
        {f"{part}/{one.name}": one.also for part, own in parts.items() for one in own.results},
        settings.num_samples,
    )
    lines += [f"- {remark}" for remark in remarks]
    folder.write_text("evaluation.md", "\n".join(lines).rstrip() + "\n")
    records = {
        part: evaluation_record(settings, done, swept(done.results)) for part, done in parts.items()
    }
    record = {"run": folder.path.parent.name, "left_out": list(left_out), "parts": records}
    folder.write_json("evaluation.json", record)
    sources = {part: done.run.task.source for part, done in parts.items()}
    folder.write_provenance({"parts": sources})
    print("\n".join([*remarks, f"evaluation.md, evaluation.json: in {folder.path}"]))
