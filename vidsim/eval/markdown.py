"""Score tables as Markdown, for a README or a model card."""

from vidsim.eval.result import SavedResult
from vidsim.eval.score import Score, columns

SKILL = "_skill"  # behind the metric that it belongs to


def markdown_table(saved: SavedResult, details: bool = False) -> list[str]:
    """The table of a suite as lines of Markdown.

    A metric with a `_skill` beside it has both in one row: score, floor and baselines, then the
    skill with its interval. Other suites have the columns of the screen.

    details  all rows; else the headline ones
    """
    rows = [score for score in saved.scores if details or score.metric.count("/") < 2]
    if not rows:
        return ["No rows."]
    skills = {s.metric.removesuffix(SKILL): s for s in rows if s.metric.endswith(SKILL)}
    cells = [_cells(s, skills, saved.suite) for s in rows if not s.metric.endswith(SKILL)]
    head = list(cells[0])
    body = [f"| {' | '.join(cell.replace('|', ' ') for cell in row.values())} |" for row in cells]
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *body]


def _cells(score: Score, skills: dict[str, Score], suite: str) -> dict[str, str]:
    found = columns(score)
    found["better"] = found.pop("")
    if not skills:
        return found
    skill = skills.get(score.metric)
    shown = columns(skill) if skill else {"value": "–", "95% interval": "–"}
    return {
        "capability": score.metric.removeprefix(f"{suite}/"), "skill": shown["value"],
        "95% interval of the skill": shown["95% interval"], "score": found["value"],
        "95% interval": found["95% interval"], "n": found["n"], "floor": found["floor"],
        "baselines": found["baselines"],
    }  # fmt: skip
