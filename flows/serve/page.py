"""The page for people: an image or several are dropped, pasted or photographed, and the prediction is shown."""

from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse

from flows.serve.prediction import PredictionService
from flows.web.pages import static_files, templates

FOLDER = Path(__file__).parent
ACCURACIES = (0.8, 0.9, 0.95, 0.99)  # that the page offers, if the model guarantees them
USUAL_ACCURACY = 0.95


def add_page(app: FastAPI, service: PredictionService, *, has_feedback: bool) -> None:
    """Add `/` and its files to ``app``."""
    template = templates(FOLDER / "templates").get_template("serve.html")

    @app.get("/", include_in_schema=False)
    async def page(_: Request) -> HTMLResponse:
        model = service.holder.current
        return HTMLResponse(
            template.render(
                model=model.to_json(),
                categories=len(model.predictor.taxonomy),
                reads_titles=model.predictor.reads_titles,
                has_feedback=has_feedback,
                accuracies=model.guaranteed(ACCURACIES),
                usual_accuracy=USUAL_ACCURACY,
                max_images=min(service.limits.max_images, 16),
            )
        )

    app.mount("/static/serve", static_files(FOLDER / "static"))
    app.mount("/static", static_files())
