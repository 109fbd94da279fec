"""The arithmetic of docs/scale.md, by hand; and that the page shows what the program prints."""

import pytest

from tests.support.paths import ROOT
from tools.costs import SIZES, Prices, Size, Stage, dollars, hours, main, table, terabytes

PRICES = Prices(vcpu_hour=1.0, gpu_hour=10.0, gb_month=0.0, disk_gb_month=0.0)


def test_costs_equal_hand_calculation() -> None:
    size = Size(images=3600e3, hosts=2, vcpus=10, gpus=2)
    assert hours(Stage("x", 10.0), size) == pytest.approx(1.0)  # 36,000 s on 10 vCPUs
    assert dollars(Stage("x", 10.0), size, PRICES) == pytest.approx(10.0)
    assert hours(Stage("x", 10.0, share=0.5, most_vcpus=1), size) == pytest.approx(5.0)
    assert hours(Stage("x", 10.0, per_host=True), size) == pytest.approx(1000 / 64)  # 64 images a second
    assert hours(Stage("x", 10.0, gpu_per_s=500.0), size) == pytest.approx(1.0)
    assert dollars(Stage("x", 10.0, gpu_per_s=500.0), size, PRICES) == pytest.approx(20.0)
    without = Size(images=3600e3, hosts=2, vcpus=10, gpus=0)
    assert hours(Stage("x", 10.0, gpu_per_s=500.0), without) == pytest.approx(1.0)
    assert terabytes(size, ("as served",)) == pytest.approx(3600e3 * 126e3 / 1e12)


def test_docs_show_printed_costs(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    printed = capsys.readouterr().out
    assert printed.strip() == table(SIZES, Prices())
    assert printed.strip() in (ROOT / "docs/scale.md").read_text(encoding="utf-8")


def test_costs_of_given_sizes_and_prices(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--images", "1e6", "--hosts", "20", "--vcpus", "32", "--gpus", "0", "--vcpu-hour", "0.02"])
    assert "1,000,000 images" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--images", "5"])
    assert "expected all four or none" in capsys.readouterr().err
