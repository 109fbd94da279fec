"""Reads the descriptions of the stages from dvc.yaml (``desc``), without DVC."""

from pathlib import Path

from atlas_model.core.yaml_files import parse_text


def stage_descriptions() -> dict[str, str]:
    """Stage -> its ``desc`` in dvc.yaml; stages without one are missing."""
    stages = parse_text(Path("dvc.yaml").read_text(encoding="utf-8")).get("stages", {})
    return {name: str(stage["desc"]) for name, stage in stages.items() if isinstance(stage, dict) and "desc" in stage}
