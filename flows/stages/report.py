"""Stage ``report``: writes the report of the run, and the cards of its model and its data.

reports/report.html is one file for a browser, which loads nothing. reports/cards/model/README.md and
reports/cards/data/README.md have the format of the Hugging Face Hub. All three state what other stages wrote, and
models/champions.json, with which promotion records the accepted models.
"""

from atlas_model.core.files import replacing_folder, write_text
from atlas_model.core.params import Params
from flows import paths
from flows.report.cards import data_card, model_card
from flows.report.facts.collect import collect
from flows.report.page import Texts, render_page
from flows.stages.entry import main, write_metrics


def run(params: Params) -> None:
    """Write the three files, and count warnings and images."""
    given = params.report
    facts = collect(
        source=params.crawl.source,
        snapshot=params.crawl.snapshot,
        obey_robots=params.fetch.obey_robots,
        zoom_enabled=params.zoom.enabled,
        pairs=given.pairs,
        images=given.images,
    )
    texts = Texts(
        title=given.title,
        description=given.description,
        contact=given.contact,
        license=given.license,
        data_license=given.data_license,
        intended_use=given.intended_use,
    )
    page = render_page(facts, texts, paths.SHARDS, side=given.image_side, max_bytes=given.max_bytes)
    write_text(paths.REPORT, page.html)
    with replacing_folder(paths.CARDS) as folder:
        for name, card in (("model", model_card(facts, texts)), ("data", data_card(facts, texts))):
            (folder / name).mkdir()
            (folder / name / "README.md").write_text(card, encoding="utf-8")
    warnings, images = len(facts.caveats), page.thumbnails
    write_metrics(
        "report",
        {"warnings": warnings},
        {
            "warnings": warnings,
            "bytes": len(page.html.encode()),
            "images": {
                "shown": len(images.by_id),
                "left_out": images.left_out,
                "unreadable": images.unreadable,
            },
        },
    )


if __name__ == "__main__":
    main(run)
