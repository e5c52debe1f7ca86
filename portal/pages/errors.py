"""The page that tells a person what went wrong, or what is not ready yet."""

from falcon.asgi import Request

from portal.pages.page import render
from portal.pages.then import kept
from portal.problems import Problem
from portal.travel import StillBuilding


def problem_page(req: Request, problem: Problem) -> str:
    who = getattr(req.context, "identity", None)
    about = {"path": req.path, "who": who, "csrf": who.csrf if who else "", "section": ""}
    if isinstance(problem, StillBuilding):
        return render("building.html", building=problem.building, kept=kept(req.params), **about)
    return render("error.html", problem=problem, **about)
