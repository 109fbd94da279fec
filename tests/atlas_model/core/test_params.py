"""Validation of params.yaml: all errors are reported at once, with the key and the allowed values."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from atlas_model.core.errors import ParamsError
from atlas_model.core.params import Params, load_params
from atlas_model.data.images import MAX_PIXELS
from tests.support.paths import ROOT


@pytest.fixture
def content() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))


def load(tmp_path: Path, content: object) -> Params:
    path = tmp_path / "params.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return load_params(path)


def faults_of(tmp_path: Path, content: object) -> str:
    with pytest.raises(ParamsError) as caught:
        load(tmp_path, content)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_params_of_the_project_are_valid() -> None:
    params = load_params(ROOT / "params.yaml")
    assert params.crawl.sources == Path("data/sources.csv")
    assert params.train.epochs > 0


def test_reports_all_errors_with_key_value_and_allowed_values(tmp_path: Path, content: dict[str, Any]) -> None:
    content["crawl"]["source"] = "web"
    content["crawl"]["snapshot"] = "../outside"
    content["fetch"]["concurrency"] = "many"
    content["fetch"]["speed"] = 3
    content["train"]["grid"] = "big"
    content["train"]["epochs"] = 0
    content["train"]["flip"] = 1
    content["evaluate"]["beam"] = 2.5
    del content["split"]["seed"]
    del content["zoom"]
    text = faults_of(tmp_path, content)
    assert "10 faults" in text, text
    lines = text.splitlines()
    for place, *words in [
        ("crawl.source", "'demo'", "'shops'", "'manifest'", "got 'web'"),
        ("crawl.snapshot", "pattern", "got '../outside'"),
        ("fetch.concurrency", "integer", "got 'many'"),
        ("fetch.speed", "unknown key"),
        ("train.grid", "native", "got 'big'"),
        ("train.epochs", "greater than 0", "got 0"),
        ("train.flip", "boolean", "got 1"),
        ("evaluate.beam", "integer", "got 2.5"),
        ("split.seed", "missing"),
        ("zoom", "missing"),
    ]:
        found = [line for line in lines if line.startswith(f"  - {place}: ")]
        assert found, f"{place} is not in:\n{text}"
        assert all(word in found[0] for word in words), found[0]


@pytest.mark.parametrize(
    ("section", "changes", "told"),
    [
        ("split", {"val_share": 0.6, "test_share": 0.4}, "below 1"),
        ("zoom_train", {"val_share": 0.5, "test_share": 0.5}, "below 1"),
        ("train", {"weights": "imagenet"}, "weights must be null"),
        ("train", {"views": 4, "flip": True, "fine_tune_from": "all"}, "views must be 1"),
        (
            "train",
            {"encoder": "resnet18", "weights": "imagenet", "fine_tune_from": "none"},
            "expected views above 1 together with augmentation",
        ),
        ("train", {"balance": 0.5, "label_smoothing": 0.1}, "balance and label_smoothing contradict each other"),
        ("train", {"balance": 0.5, "normalize": "vocabulary"}, "normalize must be children, or balance 0"),
        ("train", {"title": "ngrams", "normalize": "vocabulary"}, "normalize must be children, or title none"),
        ("train", {"path_head": True, "normalize": "vocabulary"}, "normalize must be children, or path_head false"),
        ("train", {"head_epochs": 12}, "head_epochs must be below epochs"),
        ("train", {"encoder": "resnet18", "fine_tune_from": "layer4"}, "fine_tune_from must be all"),
    ],
)
def test_reports_inconsistent_values(
    tmp_path: Path, content: dict[str, Any], section: str, changes: dict[str, Any], told: str
) -> None:
    content[section].update(changes)
    text = faults_of(tmp_path, content)
    assert text.startswith(f"{tmp_path}/params.yaml: {section}: ")
    assert told in text


def test_max_pixels_has_the_decoder_limit(tmp_path: Path, content: dict[str, Any]) -> None:
    content["fetch"]["max_pixels"] = MAX_PIXELS
    load(tmp_path, content)
    content["fetch"]["max_pixels"] = MAX_PIXELS + 1
    assert f"less than or equal to {MAX_PIXELS}" in faults_of(tmp_path, content)


def test_reports_unknown_keys_with_dashes(tmp_path: Path, content: dict[str, Any]) -> None:
    content["crawl"]["time-out"] = 3
    content["my-stage"] = {}
    text = faults_of(tmp_path, content)
    assert "crawl.time-out: unknown key" in text
    assert "  - my-stage: unknown key" in text


def test_connect_maps_hosts_to_addresses(tmp_path: Path, content: dict[str, Any]) -> None:
    content["crawl"]["connect"] = {"shop.internal": "10.0.0.5:8080", "v6": "[::1]:80"}
    assert load(tmp_path, content).crawl.connect_map == {"shop.internal": ("10.0.0.5", 8080), "v6": ("::1", 80)}
    content["crawl"]["connect"] = {"a": "localhost:80", "b": "127.0.0.1", "c": "127.0.0.1:99999"}
    assert faults_of(tmp_path, content).count('as in "127.0.0.1:8000"') == 3


def test_reports_all_errors_of_table_columns(tmp_path: Path, content: dict[str, Any]) -> None:
    columns = content["crawl"]["files"]["columns"]
    columns |= {"image": None, "category": [], "title": 3, "colour": "colour"}
    del columns["price"]
    text = faults_of(tmp_path, content)
    assert "5 faults" in text, text
    for told in (
        "image: ",
        "category: List should have at least 1",
        "title: ",
        "colour: unknown key",
        "price: missing",
    ):
        assert f"  - crawl.files.columns.{told}" in text, text


def test_separator_needs_a_single_category_column(tmp_path: Path, content: dict[str, Any]) -> None:
    files = content["crawl"]["files"]
    files["columns"]["category"] = ["gender", "type"]
    assert "crawl.files: separator is for one category column" in faults_of(tmp_path, content)
    files["separator"] = None
    assert load(tmp_path, content).crawl.files.columns.category == ["gender", "type"]


def test_reports_invalid_schedule(tmp_path: Path, content: dict[str, Any]) -> None:
    content["pipeline"] |= {"cron": "@daily", "timezone": "Europe/Berln"}
    text = faults_of(tmp_path, content)
    assert "pipeline.cron: expected five fields" in text
    assert "pipeline.timezone: expected a name" in text


def test_schedule_may_be_null(tmp_path: Path, content: dict[str, Any]) -> None:
    content["pipeline"]["cron"] = None
    assert load(tmp_path, content).pipeline.cron is None


def test_reports_duplicate_keys_and_other_errors_together(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    text = re.sub(r"(?m)^  seed: 1$", "  seed: 1\n  seed: 2", text).replace('"0 3 * * *"', '"0 25 * * *"')
    told = faults_of(tmp_path, text.replace("timezone: UTC", "timezone: Europe/Berln"))
    for section in ("zoom_train", "split", "train", "evaluate", "drift", "promote"):
        assert f"  - {section}.seed: duplicate key, on lines " in told
    assert "  - pipeline.cron: " in told
    assert "  - pipeline.timezone: " in told


def test_reads_numbers_in_dvc_notation(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    params = load(tmp_path, text.replace("encoder_lr: 0.003", "encoder_lr: 1e-05"))
    assert params.train.encoder_lr == 0.00001


@pytest.mark.parametrize("content", ["", "[]", "crawl", "crawl: 3", "a: {b: [", "\x00", "!!python/object:os.system {}"])
def test_reports_files_that_are_not_params(tmp_path: Path, content: str) -> None:
    assert "params.yaml" in faults_of(tmp_path, content)


def test_reports_wrong_encoding_and_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    with pytest.raises(ParamsError, match="No such file"):
        load_params(path)
    path.write_bytes(b"crawl: \xff\xfe")
    with pytest.raises(ParamsError, match="cannot be read"):
        load_params(path)


def test_reports_renamed_key(tmp_path: Path, content: dict[str, Any]) -> None:
    content["drift"]["picture_sizes"] = content["drift"].pop("image_sizes")
    text = faults_of(tmp_path, content)
    assert "drift.picture_sizes: was renamed to image_sizes" in text and "missing" not in text and "unknown" not in text


def test_sections_are_frozen(content: dict[str, Any], tmp_path: Path) -> None:
    params = load(tmp_path, content)
    with pytest.raises(ValueError, match="frozen"):
        params.train.epochs = 3


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@pytest.mark.slow
@given(section=st.sampled_from(sorted(Params.model_fields)), value=values)
def test_any_value_is_valid_or_reported(tmp_path_factory: pytest.TempPathFactory, section: str, value: object) -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    content[section] = value
    folder = tmp_path_factory.getbasetemp()
    assert section in faults_of(folder, content)


def test_profile_inherits_missing_sections_from_its_base(tmp_path: Path, content: dict[str, Any]) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    evaluate = {**content["evaluate"], "beam": 7}
    profile = tmp_path / "a/profile"
    profile.mkdir(parents=True)
    params = load(profile, {"base": "../../params.yaml", "evaluate": evaluate})
    assert params.evaluate.beam == 7
    assert params.train == load(tmp_path, content).train
    del evaluate["beam"]  # only whole sections are inherited, because DVC reads the profile's file alone
    assert "evaluate.beam: missing" in faults_of(profile, {"base": "../../params.yaml", "evaluate": evaluate})
    assert "none.yaml: cannot be read" in faults_of(profile, {"base": "none.yaml"})
