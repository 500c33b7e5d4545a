"""The interactive report in a real Chromium: nothing is fetched, nothing fails, what can be chosen works."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report.fabricated_analysis import HOSTILE, Fabricated, fabricate
from report.fabricated_sweep import SWEEPS, write_sweep

from effopd.report.analysis import write_report
from effopd.report.sweep import write_sweep_report
from effopd.report.table import NONE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the dev extra")

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 800}
ALL_FIGURES = {
    *("norms", "layers", "concentration", "heat", "spectra", "tail", "alignment", "ranks"),
    *("early", "trajectory", "paths", "quantiles", "histogram", "shift"),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(fabricate(tmp_path_factory.mktemp("browser"), Fabricated(tokens=300)))[-1]


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = Fabricated(
        runs=(HOSTILE, "<b>bold</b> & %{x} $1$"),
        layers=2,
        modules={f"mlp.up_proj{HOSTILE}": (32, 32), "self_attn.q_proj": (32, 32)},
        num_experts=3,
        token_text=HOSTILE,
    )
    return write_report(fabricate(tmp_path_factory.mktemp("hostile"), plan))[-1]


class Visit:
    """A page with everything it complained of and asked for."""

    def __init__(self, browser: Any, path: Path, viewport: dict[str, int], **options: Any) -> None:
        self.context = browser.new_context(viewport=viewport, **options)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append("dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("tbody tr td")

    def draw_everything(self) -> None:
        for element in self.page.locator("[data-figure]").all():
            element.scroll_into_view_if_needed()
            playwright.expect(element).to_have_attribute("data-drawn", "true", timeout=30_000)

    def rows(self) -> list[list[str]]:
        script = (
            "[...document.querySelectorAll('[data-table] tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
        )
        return self.page.evaluate(script)

    def column(self, key: str) -> list[str]:
        keys = self.page.evaluate("[...document.querySelectorAll('[data-table] th')].map(h => h.dataset.key)")
        return [row[keys.index(key)] for row in self.rows()]

    def status(self) -> str:
        return self.page.locator("[data-table] output").text_content()

    def await_status(self, text: str) -> None:
        playwright.expect(self.page.locator("[data-table] output")).to_contain_text(text)

    def choose(self, name: str, label: str) -> None:
        self.page.locator(f'[data-table] select[name="{name}"]').select_option(label=label)

    def check(self) -> None:
        assert self.complaints == []
        assert [url for url in self.requests if not url.startswith(("file:", "data:", "blob:"))] == []
        assert len([url for url in self.requests if url.startswith("file:")]) == 1
        self.context.close()


def test_all_figures_are_drawn_without_a_complaint_or_a_request(browser: Any, report: Path) -> None:
    visit = Visit(browser, report, DESKTOP)
    assert {each.get_attribute("data-figure") for each in visit.page.locator("[data-figure]").all()} == ALL_FIGURES
    visit.draw_everything()
    for key in ALL_FIGURES:
        assert visit.page.locator(f'[data-figure="{key}"] .plot svg.main-svg').count() > 0, key
    buttons = visit.page.evaluate("[...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title)")
    assert set(buttons) <= {"Download plot as a PNG", "Download plot as a png", "Zoom", "Pan", "Reset axes"}
    visit.check()


def test_the_figures_of_a_sweep_are_shown(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effopd.report.analysis.write.draw_figures", lambda *_: [])  # the page draws its own
    sweep = write_sweep(tmp_path / "sweep")
    write_sweep_report(sweep)
    report = write_report(fabricate(tmp_path / "analysis", Fabricated(layers=1)), sweep)[-1]
    for viewport in (DESKTOP, PHONE):
        visit = Visit(browser, report, viewport)
        visit.page.wait_for_selector("figure.printed img")
        script = "[...document.querySelectorAll('figure.printed img')].map(i => [i.naturalWidth, i.width])"
        widths = visit.page.evaluate(script)
        assert len(widths) == len(SWEEPS)
        assert all(own > 0 and 0 < shown <= viewport["width"] for own, shown in widths)
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        visit.check()


def test_figures_are_drawn_when_they_come_into_view(browser: Any, report: Path) -> None:
    visit = Visit(browser, report, DESKTOP)
    visit.page.wait_for_selector('[data-figure="norms"][data-drawn]')
    assert visit.page.locator('[data-figure="shift"][data-drawn]').count() == 0
    visit.page.locator('[data-figure="shift"]').scroll_into_view_if_needed()
    visit.page.wait_for_selector('[data-figure="shift"][data-drawn]')
    visit.check()


def test_every_choice_of_every_figure_draws(browser: Any, report: Path) -> None:
    visit = Visit(browser, report, DESKTOP)
    visit.draw_everything()
    for select in visit.page.locator("[data-figure] select").all():
        for value in select.evaluate("s => [...s.options].map(o => o.value)")[:25]:
            select.evaluate("(s, value) => { s.value = value; s.dispatchEvent(new Event('change')); }", value)
    visit.check()


def test_one_switch_shows_shares_of_training_everywhere(browser: Any, report: Path) -> None:
    visit = Visit(browser, report, DESKTOP)
    visit.draw_everything()
    titles = "k => document.querySelector(`[data-figure='${k}'] .plot`)._fullLayout.xaxis.title.text"
    places = "k => document.querySelector(`[data-figure='${k}'] .plot`).data.at(-1).x"
    keys = ("norms", "concentration", "alignment", "ranks", "quantiles")
    assert {visit.page.evaluate(titles, key) for key in keys} == {"optimizer step"}
    visit.page.locator('[data-figure="ranks"] select[name="Axis"]').select_option(label="share of training")
    for key in keys:
        assert visit.page.evaluate(titles, key) == "share of training"
        assert visit.page.evaluate(places, key) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
        assert visit.page.locator(f'[data-figure="{key}"] select[name="Axis"]').input_value() == "share"
    visit.check()


def test_the_embeddings_of_all_runs_share_a_plane_with_numbers_beside_it(browser: Any, report: Path) -> None:
    visit = Visit(browser, report, DESKTOP)
    visit.draw_everything()
    shift = visit.page.locator('[data-figure="shift"]')
    assert shift.locator(".plot").count() == 1
    means = pd.read_parquet(report.parent / "embedding_tokens.parquet").groupby("run")["cosine"].mean()
    assert shift.locator(".legend li").all_text_contents() == [
        f"opd: mean cosine {means['opd']:.3f}, median shift 10 % of the embedding's length",
        f"rl: mean cosine {means['rl']:.3f}, median shift 20 % of the embedding's length",
    ]
    traces = "document.querySelector('[data-figure=\"shift\"] .plot').data.map(t => t.x.length)"
    assert visit.page.evaluate(traces) == [150, 450, 150, 450, 150]  # half of the tokens are pictured
    visit.check()


def test_layers_of_a_vision_tower_can_be_chosen(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effopd.report.analysis.write.draw_figures", lambda *_: [])  # the page draws its own
    plan = Fabricated(layers=2, modules={"self_attn.q_proj": (32, 32), "visual.attn.qkv": (32, 32)})
    visit = Visit(browser, write_report(fabricate(tmp_path / "out", plan))[-1], DESKTOP)
    kinds = visit.page.locator('[data-figure="layers"] select')
    assert kinds.evaluate("s => [...s.options].map(o => o.text)") == ["attention", "normalisation", "visual attention"]
    kinds.select_option(label="visual attention")
    visit.draw_everything()
    assert visit.page.locator('[data-figure="layers"] .plot .bars path').count() == 4
    visit.check()


def test_the_table_filters(browser: Any, report: Path) -> None:
    visit = Visit(browser, report, DESKTOP)
    assert set(visit.column("step")) == {"50"}
    visit.choose("Checkpoint", "all")
    assert visit.status().endswith("of 300 rows")  # (28 + 2 outside) x 5 checkpoints x 2 runs
    visit.choose("Run", "rl")
    assert set(visit.column("run")) == {"rl"}
    assert visit.status().endswith("of 150 rows")
    visit.choose("Checkpoint", "step 20")
    visit.choose("Module", "mlp.up_proj")
    assert visit.status().endswith("of 4 rows")
    layers = visit.page.locator('[data-table] input[name^="Layers"]')
    layers.fill("1-2, 7")
    visit.await_status("of 2 rows")
    assert visit.column("layer") == ["1", "2"]
    visit.page.locator('[data-table] input[name="Name contains"]').fill("LAYERS.2.")
    visit.await_status("of 1 rows")
    layers.fill("none")
    visit.await_status("No row matches")
    visit.check()


def test_the_table_sorts_and_turns_pages(browser: Any, report: Path) -> None:
    visit = Visit(browser, report, DESKTOP)
    head = visit.page.locator('[data-table] th[data-key="effective_rank"]')
    head.locator("button").focus()
    visit.page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    values = [float(value) for value in visit.column("effective_rank")]
    assert values == sorted(values, reverse=True)
    assert len(values) == 50
    visit.page.get_by_role("button", name="Next").click()
    later = visit.column("effective_rank")
    assert later[-4:] == [NONE] * 4  # what has none comes last
    assert float(later[0]) <= values[-1]
    assert visit.page.get_by_role("button", name="Next").is_disabled()
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert float(visit.column("effective_rank")[0]) <= values[-1]
    visit.page.locator('[data-table] th[data-key="parameter"] button').click()
    assert head.get_attribute("aria-sort") is None
    names = visit.column("parameter")
    assert names[0] == names[1] == "model.embed_tokens.weight"
    visit.check()


def test_the_theme_follows_the_system_and_the_button(browser: Any, report: Path) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    ink = "getComputedStyle(document.querySelector('.plot .xtick text')).fill"
    light = Visit(browser, report, DESKTOP, color_scheme="light")
    light.page.wait_for_selector('[data-figure="norms"][data-drawn]')
    dark = Visit(browser, report, DESKTOP, color_scheme="dark")
    dark.page.wait_for_selector('[data-figure="norms"][data-drawn]')
    pale, deep = light.page.evaluate(background), dark.page.evaluate(background)
    assert pale != deep
    assert light.page.evaluate(ink) != dark.page.evaluate(ink)
    light.page.locator("#theme").click()
    assert light.page.evaluate(background) == deep
    assert light.page.evaluate(ink) == dark.page.evaluate(ink)
    assert light.page.locator("#theme").get_attribute("aria-pressed") == "true"
    light.page.locator("#theme").click()
    assert light.page.evaluate(background) == pale
    light.check()
    dark.check()


@pytest.mark.parametrize("kind", ["report", "hostile_report"])
def test_a_phone_shows_it_without_sideways_scrolling(browser: Any, kind: str, request: pytest.FixtureRequest) -> None:
    visit = Visit(browser, request.getfixturevalue(kind), PHONE, is_mobile=True, has_touch=True)
    assert visit.page.evaluate("document.scrollingElement.scrollWidth") <= 390
    visit.draw_everything()
    visit.page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert visit.page.evaluate("document.scrollingElement.scrollWidth") <= 390
    visit.check()


def test_hostile_names_are_shown_and_do_nothing(browser: Any, hostile_report: Path) -> None:
    visit = Visit(browser, hostile_report, DESKTOP)
    visit.draw_everything()
    assert visit.page.locator("main img").count() == 0
    assert visit.page.locator("main b:text('bold')").count() == 0
    assert HOSTILE in visit.page.locator("h1 + .lead").text_content()
    assert HOSTILE in visit.column("run")
    for key in ("shift", "heat", "spectra"):  # hover makes Plotly read the names
        box = visit.page.locator(f'[data-figure="{key}"] .plot').first
        box.scroll_into_view_if_needed()
        for x, y in ((80, 40), (160, 60), (220, 120), (260, 200)):
            box.hover(position={"x": x, "y": y}, force=True)
    assert visit.page.locator("main img").count() == 0
    visit.check()


def test_the_page_reads_without_a_mouse(browser: Any, report: Path) -> None:
    visit = Visit(browser, report, DESKTOP)
    visit.page.keyboard.press("Tab")
    assert visit.page.evaluate("document.activeElement.className") == "skip"
    unnamed = """[...document.querySelectorAll('button, select, input, .scroll, section')].filter(e =>
        !(e.textContent.trim() || e.labels?.length || e.getAttribute('aria-label'))).length"""
    assert visit.page.evaluate(unnamed) == 0
    for landmark in ("banner", "navigation", "main", "contentinfo"):
        assert visit.page.get_by_role(landmark).count() == 1
    visit.check()


def test_one_checkpoint_without_an_update(browser: Any, tmp_path: Path) -> None:
    plan = Fabricated(runs=("zero",), steps=(None,), zero=("zero",), layers=1, embeddings=False)
    visit = Visit(browser, write_report(fabricate(tmp_path / "out", plan))[-1], DESKTOP)
    visit.draw_everything()
    assert visit.page.locator(".absent").count() == 12
    visit.check()


@pytest.mark.slow
def test_a_large_analysis_opens(browser: Any, tmp_path: Path) -> None:
    """40 layers x 7 modules x 20 checkpoints x 2 runs; the seconds are printed, not judged."""
    plan = Fabricated(layers=40, steps=tuple(range(10, 210, 10)), tokens=3000)
    path = write_report(fabricate(tmp_path / "out", plan))[-1]
    visit = Visit(browser, path, DESKTOP)
    visit.page.wait_for_selector("[data-drawn]")
    timing = "performance.getEntriesByType('navigation')[0].domInteractive"
    print(f"{path.stat().st_size / 1e6:.1f} MB, interactive after {visit.page.evaluate(timing):.0f} ms")
    visit.choose("Checkpoint", "all")
    assert visit.status().endswith("of 11,280 rows")
    visit.draw_everything()
    visit.check()
