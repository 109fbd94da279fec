"""The HTTP application of `atlas review`: the pages, the images, and the JSON of `api`.

`flows.web.server.serve` adds the access rules.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from atlas_model.core.errors import AtlasError, ImageError, InputError
from atlas_model.data.decisions import Verdict
from atlas_model.taxonomy.tree import SEPARATOR
from flows.review.api import Reviewing, add_api
from flows.review.catalogue import Catalogue
from flows.review.items import vote
from flows.review.queues import ORDERS, QUEUES, Order, Queue, available_orders
from flows.web.pages import static_files, templates

FOLDER = Path(__file__).parent
SIDES = {"thumb": 160, "large": 1024}  # px
FOREVER = "private, max-age=31536000, immutable"  # an image_id is a hash of the bytes


@dataclass(frozen=True)
class Start:
    """How the page starts, unless its address says otherwise."""

    reviewer: str
    queue: Queue
    order: Order


def create_app(on: Reviewing, start: Start) -> FastAPI:
    """Make the application."""
    app = FastAPI(title="Atlas review", openapi_url=None)
    add_api(app, on)
    _add_pages(app, on, start)
    _add_images(app, on)
    app.add_exception_handler(AtlasError, _explain)
    app.mount("/static/review", static_files(FOLDER / "static"))
    app.mount("/static", static_files())
    return app


def _explain(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": str(error)}, 400 if isinstance(error, InputError) else 500)


def _add_pages(app: FastAPI, on: Reviewing, start: Start) -> None:
    catalogue = on.catalogue
    pages = templates(FOLDER / "templates")

    @app.get("/", response_class=HTMLResponse)
    def page() -> str:
        return pages.get_template("review.html").render(
            start=start,
            orders=[(order, text, order in available_orders("zoom")) for order, text in ORDERS.items()],
            has_zoom=any(score.p_zoomed is not None for score in catalogue.zoom_scores.values()),
            has_model=on.advisor.folder is not None,
            notes=catalogue.notes,
            categories=len(catalogue.taxonomy),
        )

    @app.get("/disagreements", response_class=HTMLResponse)
    def disagreements() -> str:
        listed = {
            queue: [_disagreement(catalogue, queue, verdict) for verdict in on.session.disagreements(queue)]
            for queue in QUEUES
        }
        return pages.get_template("disagreements.html").render(queues=listed)


def _add_images(app: FastAPI, on: Reviewing) -> None:
    @app.get("/images/{image_id}")
    def image(image_id: str, size: Literal["thumb", "large"] = "large") -> Response:
        return _image(lambda: on.images.render(image_id, SIDES[size]), FOREVER)

    @app.get("/attention/{image_id}")
    def attention(image_id: str, path: Annotated[int, Query(ge=0)]) -> Response:
        if path >= len(on.catalogue.taxonomy):
            raise HTTPException(404, "there is no such path")
        names = on.catalogue.taxonomy.paths[path]
        return _image(lambda: (on.advisor.overlay(image_id, names), "image/png"), "no-store")  # models change


def _image(render: Callable[[], tuple[bytes | None, str]], caching: str) -> Response:
    """The answer with an image: it may run no script and load nothing, whatever a browser takes it for."""
    try:
        data, kind = render()
    except KeyError:
        raise HTTPException(404, "there is no such image") from None
    except ImageError as error:
        raise HTTPException(422, f"the image cannot be decoded: {error}") from error
    if data is None:
        raise HTTPException(404, "there is no model that knows this category")
    policy = "default-src 'none'; sandbox"
    return Response(data, media_type=kind, headers={"Cache-Control": caching, "Content-Security-Policy": policy})


def _disagreement(catalogue: Catalogue, queue: Queue, verdict: Verdict) -> dict[str, Any]:
    here = catalogue.has(queue, verdict.subject)
    known = verdict.product_id in catalogue.row_of
    image_id = verdict.subject
    if here and queue == "categories":
        image_id = catalogue.shown_first(verdict.subject)[0]
    return {
        "title": catalogue.facts(verdict.product_id)["title"] if known else verdict.product_id,
        "image_id": image_id if here else None,
        "votes": [vote(each) for each in verdict.votes],
        "answer": None if verdict.answer is None else _text(verdict.answer),
    }


def _text(answer: str | tuple[str, ...]) -> str:
    return answer if isinstance(answer, str) else SEPARATOR.join(answer) or "no category fits"
