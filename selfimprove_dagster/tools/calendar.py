"""Return the date (Schick et al., 2302.04761, section 3)."""

from __future__ import annotations

from selfimprove_dagster.tools.base import Context, ToolError

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


_INTRODUCTION = """\
Your task is to add calls to a calendar to a text, wherever today's date helps to say what comes next. A \
call is written "[Calendar()]" and tells the current date. Leave the text itself as it is. Some examples:"""


_SHOTS = (
    (
        "The council meets again next Tuesday, the 14th of May.",
        "The council meets again next Tuesday, [Calendar()] the 14th of May.",
    ),
    (
        "The tower was finished 40 years ago, in 1985.",
        "The tower was finished 40 years ago, in [Calendar()] 1985.",
    ),
    (
        "The library is closed today since it is a Sunday.",
        "The library is closed today since it is a [Calendar()] Sunday.",
    ),
    ("There are 12 days to go until New Year.", "There are [Calendar()] 12 days to go until New Year."),
)


class Calendar:
    """A calendar that returns the date of the document: `Today is Friday, November 20, 2020.`

    The result is in English, independent of the locale. It is an error for a document without a date.
    """

    name = "Calendar"
    version = "1"
    description = "Returns today's date."
    introduction, shots = _INTRODUCTION, _SHOTS

    def parse(self, arguments: str) -> str | ToolError:
        if len(arguments) > 10 or arguments.strip() not in ("", '""', "''"):
            return ToolError("the calendar takes no input")
        return ""

    def run(self, input: str, context: Context) -> str | ToolError:
        day = context.date
        if day is None:
            return ToolError("the document has no date")
        return f"Today is {_DAYS[day.weekday()]}, {_MONTHS[day.month - 1]} {day.day}, {day.year}."
