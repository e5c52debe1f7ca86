"""The page that tells a person what went wrong."""

from falcon.asgi import Request

from portal.pages.page import render
from portal.problems import Problem


def problem_page(req: Request, problem: Problem) -> str:
    who = getattr(req.context, "identity", None)
    return render("error.html", problem=problem, path=req.path, who=who, csrf=who.csrf if who else "", section="")
