"""Who becomes champion, what is written about it, and that no kill and no damage leaves a wrong one behind."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from PIL import Image

from atlas_model.core.checkpoint import DESCRIPTION
from atlas_model.core.errors import AtlasError, CheckpointError, InputError, MissingError
from atlas_model.core.files import locked
from atlas_model.core.params import Params, load_params
from atlas_model.data.dataset import load_split
from atlas_model.data.images import Preprocessing, encode_png
from atlas_model.data.schemas import IMAGES, PREDICTIONS, write_table
from atlas_model.inference.predictor import Predictor
from atlas_model.model.architecture import Architecture
from atlas_model.model.categorizer import Categorizer
from atlas_model.model.saved_models import load_categorizer, save
from atlas_model.taxonomy.tree import Taxonomy
from flows import paths
from flows.cli.main import main
from flows.dvc import repo
from flows.paths import CHAMPION
from flows.registry import champion
from flows.registry.champion import HISTORY, POINTER, roll_back
from flows.registry.model_folders import model_folder
from flows.registry.promote import REPORTS, _predictions, promote
from flows.report.facts.accepted import hash_of_weights, read_acceptance
from flows.stages.entry import write_metrics
from tests.support.promoting import SHARE, STORED, TAXONOMY, make_project, train, write_validation


@pytest.fixture
def params(tmp_path: Path, git_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Params:
    """Of a project, now the current folder, in which a category of 20 images is large."""
    make_project(tmp_path / "project", git_env)
    monkeypatch.chdir(tmp_path / "project")
    text = Path("params.yaml").read_text().replace("large_category: 200", "large_category: 20")
    Path("params.yaml").write_text(
        text.replace("resamples: 1000\n  seed: 1\n\nnotify", "resamples: 100\n  seed: 1\n\nnotify")
    )
    return load_params()


def changed(params: Params, **sections: dict[str, Any]) -> Params:
    content = params.model_dump()
    for name, values in sections.items():
        content[name] |= values
    return Params.model_validate(content)


def answer_of_champion() -> str:
    """What the model in the champion's folder always says; also fails unless history, DVC and folder agree."""
    history = json.loads(HISTORY.read_text())["champions"]
    (out,) = yaml.safe_load(POINTER.read_text())["outs"]
    assert out["md5"] == history[-1]["model"] == repo.content_hash(CHAMPION)
    assert out["desc"].startswith(f"version {history[-1]['version']}: ")
    model, _ = load_categorizer(CHAMPION, torch.device("cpu"))
    return model.taxonomy.tokens[int(model.decoder.output.bias.argmax())]


def test_promotes_first_and_non_inferior_models_only(params: Params) -> None:
    with pytest.raises(MissingError, match="dvc repro train"):
        promote(params)
    train("Shirts")
    decision = promote(params)
    assert (decision.promoted, decision.changed, decision.version) == (True, True, 1)
    assert answer_of_champion() == "Shirts"
    assert model_folder(None) == CHAMPION, "predictions are made with it"

    decision = promote(params)
    assert (decision.promoted, decision.changed, decision.accepted) == (False, False, True)

    train("Jeans")
    decision = promote(params)
    assert (decision.promoted, decision.changed, decision.accepted, decision.version) == (False, True, False, 1)
    assert decision.reason.startswith(
        "not promoted: version 1 stays: against version 1 may be inferior by more than the margin on 70 validation "
        "images: micro F 0.2857, -0.2857 (95 % interval "
    )
    assert "F of Shirts 0.0000" in decision.reason
    assert "| micro F | 70 | 0.5714 | 0.2857 | -0.2857 |" in decision.markdown
    assert "F of Bags" not in decision.markdown, "10 images are no large category"
    first, report = sorted(REPORTS.glob("*..*.md"), key=lambda path: path.stat().st_mtime_ns)
    assert first.name.startswith("none..")
    assert report.read_text() == decision.markdown
    assert answer_of_champion() == "Shirts"

    train("Shirts", sure=6.0)
    decision = promote(params)
    assert (decision.promoted, decision.version) == (True, 2)
    assert answer_of_champion() == "Shirts"
    events = champion.read_history()
    assert [event.version for event in events] == [1, 2]
    assert events[1].figures == {"micro F": pytest.approx(40 / 70)}
    assert events[1].replaced == 1


def test_predictions_of_the_champion_are_cached(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    train("Shirts")
    promote(params)
    train("Jeans")
    first = promote(params)
    monkeypatch.setattr("flows.registry.promote._compare", lambda *arguments: pytest.fail("compared again"))
    assert promote(params) == first
    with pytest.raises(pytest.fail.Exception):
        promote(changed(params, promote={"margin": 0.9, "category_margin": 0.9}))
    write_validation(Path(), Taxonomy([*TAXONOMY.paths, ("Hats",)]))
    with pytest.raises(pytest.fail.Exception):
        promote(params)


def test_compares_products_too(params: Params) -> None:
    write_validation(Path(), TAXONOMY, images=5)
    train("Shirts")
    promote(params)
    train("Shirts", sure=6.0)
    decision = promote(params)
    assert decision.promoted
    assert "| micro F of products | 14 | 0.5714 | 0.5714 |" in decision.markdown
    assert "| micro F | 70 | 0.5714 | 0.5714 |" in decision.markdown


def test_products_are_predicted_from_all_their_images(params: Params) -> None:
    write_validation(Path(), TAXONOMY, images=3)
    torch.manual_seed(8)
    model = Categorizer(Architecture("small", 1, "native", 4, 4, 4, 0.0, "children"), TAXONOMY).eval()
    with torch.no_grad():
        model.decoder.output.weight.mul_(200)
        model.decoder.output.bias.zero_()
    save(model, paths.CATEGORIZER, STORED, params={}, metrics={})
    split = load_split(paths.SPLITS, "val", TAXONOMY, paths.WORK / "pixels")
    answers = _predictions(paths.CATEGORIZER, split, TAXONOMY, params)
    predictor = Predictor(model, STORED, torch.device("cpu"))
    for product, rows in ((name, [r for r in range(70) if split.product_ids[r] == name]) for name in answers.products):
        pool = predictor.pool()
        pool.add(predictor.distribution(np.array(split.pixels[rows])))
        assert answers.products[product] == TAXONOMY.labels[pool.path]
    assert len(answers.products) == 24, "the last one has a single image"
    assert len(set(answers.images)) == len(set(answers.products.values())) == 2, "else this would prove little"
    few = changed(params, evaluate={"exact_nodes": 6 * len(TAXONOMY.trie.path)})
    assert len(_predictions(paths.CATEGORIZER, split, TAXONOMY, few).products) == 3, "two of three images, and the last"


def test_margins_come_from_params(params: Params) -> None:
    train("Shirts")
    promote(params)
    train("Jeans")
    assert not promote(changed(params, promote={"margin": 0.9})).promoted, "a large category is lost"
    assert promote(changed(params, promote={"margin": 0.9, "category_margin": 0.9})).promoted


def test_compares_models_on_shared_categories(params: Params) -> None:
    train("Shirts", taxonomy=Taxonomy([("Shirts",), ("Jeans",), ("Gone",)]))
    promote(params)
    train("Jeans")
    decision = promote(params)
    assert not decision.promoted
    assert "on 60 validation images" in decision.reason
    assert "10 images skipped" in decision.reason
    roll_forward = Taxonomy([("Hats",), ("Coats",)])
    train("Hats", taxonomy=roll_forward)
    decision = promote(params)
    assert decision.reason.endswith("nothing to compare on: of 70 validation images none has a category of both models")
    assert not decision.promoted
    assert promote(params, force=True).promoted


def test_champion_uses_its_own_preprocessing(params: Params) -> None:
    """Both sizes of the same images; those served are what the champion's are made of."""
    shards = [
        {"image_id": f"{n:03d}", "bytes": encode_png(Image.new("L", (50, 40), n)), "width": 50, "height": 40}
        | {"format": "PNG", "mode": "L", "orientation": 1, "n_frames": 1}
        for n in range(sum(SHARE.values()))
    ]
    train("Shirts", prepared=Preprocessing(20, "L", "pad"))
    promote(params)
    train("Shirts", sure=6.0)
    with pytest.raises(MissingError, match="fetch"):
        promote(params)
    paths.SHARDS.mkdir(parents=True)
    write_table(paths.SHARDS / "00000.parquet", pa.Table.from_pylist(shards, schema=IMAGES), IMAGES)
    assert promote(params).promoted


@pytest.mark.parametrize("rule", [{"seed": 2}, {"min_side": 9}, {"max_products_per_image": 2}])
def test_reports_split_with_other_rules(params: Params, rule: dict[str, int]) -> None:
    train("Shirts")
    promote(params)
    train("Shirts", sure=6.0)
    decision = promote(changed(params, split=rule))
    assert decision.promoted
    assert "may have been trained on some of these images" in decision.reason


def test_rollback_restores_previous_champion_once(params: Params) -> None:
    with pytest.raises(InputError, match="nothing to roll back"):
        roll_back(None)
    for sure in (1.0, 2.0, 3.0):
        train("Shirts", sure=sure)
        promote(params)
    third = champion.read_history()[-1].model
    assert main(["rollback"]) == 0
    assert champion.read_history()[-1].version == 2
    assert answer_of_champion() == "Shirts"

    decision = promote(params)
    assert not decision.accepted
    assert "it is version 3, which was rolled back" in decision.reason
    with pytest.raises(InputError, match=r"expected an earlier version \(1, 3\), got 7; the champion is version 2"):
        roll_back(7)
    assert main(["rollback"]) == 0
    assert champion.read_history()[-1].version == 1
    with pytest.raises(InputError, match="version 1 is the first"):
        roll_back(None)

    assert main(["promote"]) == 1
    assert main(["promote", "--force"]) == 0
    last = champion.read_history()[-1]
    assert (last.version, last.model, last.replaced) == (4, third, 1), "the same model under a new number"
    answer_of_champion()
    assert roll_back(2).version == 2


def test_promotion_records_test_metrics_of_the_evaluated_model(params: Params) -> None:
    """For the report of later models; not those of another model, whose evaluation has not run again yet."""

    def evaluate(model: str) -> None:
        path = {"path": str(paths.CATEGORIZER), "md5": model}
        lock = {"schema": "2.0", "stages": {"evaluate": {"cmd": "x", "deps": [path], "outs": []}}}
        Path("dvc.lock").write_text(yaml.safe_dump(lock))

    train("Shirts")
    test = {"n": 1, "micro_f1": 0.5, "ece": 0.1, "intervals": {"micro_f1": [0.4, 0.6], "nll": [0, 1]}}
    write_metrics("evaluate", {}, {"test": {**test, "products": {"micro_f1": 0.7}}})
    names = ("file_name", "product_id", "actual_category", "predicted_category")
    row = dict.fromkeys(names, "a") | {"log_probability": -1.0, "split_value": "test"}
    write_table(paths.EVALUATION / "predictions.parquet", pa.Table.from_pylist([row], PREDICTIONS), PREDICTIONS)
    evaluate(str(repo.content_hash(paths.CATEGORIZER)))
    promote(params)
    acceptance = read_acceptance(HISTORY, hash_of_weights(paths.CATEGORIZER))
    assert acceptance.is_this
    assert acceptance.current is not None
    assert acceptance.current.test is not None
    assert acceptance.current.test["intervals"] == {"micro_f1": [0.4, 0.6]}
    assert (acceptance.current.test["micro_f1"], acceptance.current.test["macro_f1"]) == (0.5, None)
    assert acceptance.current.test["products"]["micro_f1"] == 0.7

    train("Jeans")
    promote(params, force=True)
    acceptance = read_acceptance(HISTORY, hash_of_weights(paths.CATEGORIZER))
    assert acceptance.current is not None
    assert (acceptance.current.version, acceptance.current.test) == (2, None)
    roll_back(None)
    assert read_acceptance(HISTORY, "other").before == read_acceptance(HISTORY, "other").current
    train("Shirts")
    assert read_acceptance(HISTORY, hash_of_weights(paths.CATEGORIZER)).is_this, "the rollback keeps its metrics"


def test_damaged_champion_is_reported_and_replaced_with_force(params: Params) -> None:
    train("Shirts")
    promote(params)
    (CHAMPION / DESCRIPTION).write_text("{}")
    with pytest.raises(InputError, match=r"version 1 .* damaged.*--force"):
        promote(params)
    assert not promote(params, force=True).changed, "the model is the same"
    answer_of_champion()

    (CHAMPION / DESCRIPTION).write_text("{}")
    train("Jeans")
    assert promote(params, force=True).version == 2
    assert answer_of_champion() == "Jeans"

    HISTORY.write_text("{")
    with pytest.raises(InputError, match=r"champions\.json"):
        promote(params)
    HISTORY.unlink()
    with pytest.raises(InputError, match="expected no champion"):
        promote(params)


def test_invalid_challenger_changes_nothing(params: Params) -> None:
    train("Shirts")
    promote(params)
    train("Jeans")
    (paths.CATEGORIZER / DESCRIPTION).write_text("{}")
    for force in (False, True):
        with pytest.raises(CheckpointError, match="models/categorizer"):
            promote(params, force=force)
    assert answer_of_champion() == "Shirts"


def test_champion_of_another_commit_is_replaced(params: Params) -> None:
    """As after `git checkout` of an older one, which brings the files that git has, and not the folder."""
    train("Shirts")
    promote(params)
    older = {path: path.read_text() for path in (HISTORY, POINTER)}
    train("Jeans")
    promote(params, force=True)
    for path, text in older.items():
        path.write_text(text)
    train("Shirts")
    assert not promote(params).changed
    assert answer_of_champion() == "Shirts"


@pytest.mark.parametrize("killed_at", ["write_json", "write_text", "rename"])
def test_killed_promotion_is_atomic_and_repaired_by_next_call(
    params: Params, killed_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("Shirts")
    promote(params)
    train("Shirts", sure=6.0)

    class Killed(BaseException):
        pass

    def kill(*arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        if killed_at == "rename":
            written = vars(champion)["write_text"]
            patch.setattr(champion, "write_text", lambda *arguments: (written(*arguments), kill()))
        else:
            patch.setattr(champion, killed_at, kill)
        promote(params)
    version = 1 if killed_at == "write_json" else 2
    assert champion.read_history()[-1].version == version
    decision = promote(params)
    assert (decision.version, decision.accepted) == (2, True)
    assert [event.version for event in champion.read_history()] == [1, 2]
    answer_of_champion()


def test_lost_champion_is_restored_from_cache_or_reported(params: Params) -> None:
    train("Shirts")
    promote(params)
    shutil.rmtree(CHAMPION)
    POINTER.unlink()
    assert not promote(params).changed
    answer_of_champion()
    train("Jeans")
    shutil.rmtree(CHAMPION)
    shutil.rmtree(".dvc/cache")
    with pytest.raises(InputError, match=r"in DVC's cache or remote, got: .*no remote"):
        promote(params)


def test_concurrent_promotion_is_refused(params: Params) -> None:
    train("Shirts")
    with locked(paths.WORK / "champion", "test"), pytest.raises(AtlasError, match="another promotion or rollback"):
        promote(params)
