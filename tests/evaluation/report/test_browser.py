"""The report in a real browser: what it shows after each click is compared with the records."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from cd4lm_jax.data.conversations import Example
from cd4lm_jax.data.gsm_mini.generate import generate
from cd4lm_jax.decoding.rules import ConfidenceAdaptive
from cd4lm_jax.evaluation.report import problems, report
from cd4lm_jax.evaluation.runs.run import execute
from cd4lm_jax.evaluation.tasks.registry import GSM_MINI
from cd4lm_jax.language_model import load
from cd4lm_jax.replay.chips import TokenText
from cd4lm_jax.replay.page import render
from cd4lm_jax.replay.replays import Panel, Replay
from tests import browsers
from tests.conftest import ROOT
from tests.evaluation.runs import records

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = browsers.NEEDED

BASELINE, UNSURE, CHOSEN = "teacher fixed:1", "teacher confidence:0.5", "teacher confidence:0.9"
Records = dict[str, list[dict[str, Any]]]


class Evaluation:
    """The bundled teacher on 24 problems under three rules: records, report, tokenizer."""

    def __init__(self, folder: pathlib.Path) -> None:
        model = load(str(ROOT / "experiments" / "checkpoints" / "gsm_mini_teacher"))
        assert model.tokenizer is not None
        self.text = model.tokenizer.decode_one
        given = [Example(question=p.question, answer=p.answer) for p in generate("test", 24)]
        config = dataclasses.replace(GSM_MINI, batch_size=24)
        rules = [ConfidenceAdaptive(threshold=at) for at in (0.5, 0.9)]
        decodes = [config.fixed(), *(dataclasses.replace(config, rule=it) for it in rules)]
        self.runs = done = [execute(model, "teacher", given, decode) for decode in decodes]
        self.summary = {
            "rows": [run.row(done[0].seconds) for run in done],
            "baseline": BASELINE,
            "chosen": CHOSEN,
        }
        self.records: Records = {run.name: records.records(run, given) for run in done}
        self.paths = {
            name: records.write(folder / "runs" / str(number) / "problems.jsonl", lines)
            for number, (name, lines) in enumerate(self.records.items())
        }
        report.write_report(folder, self.summary, records=self.paths, text=self.text)
        self.page = folder / "report.html"

    def ids(self, name: str, keep: Any = lambda record: True, sort: Any = None) -> list[str]:
        """Ids of a run's records that are kept, as sorted."""
        kept = filter(keep, self.records[name])
        return [record["id"] for record in (sorted(kept, key=sort) if sort else kept)]


@pytest.fixture(scope="module")
def evaluation(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """After the browser: without one, nothing is decoded."""
    return Evaluation(tmp_path_factory.mktemp("evaluation"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsers.launched() as found:
        yield found


@pytest.fixture
def page(evaluation: Evaluation, browser: Browser) -> Iterator[Page]:
    """The report, opened."""
    with browser.new_context() as context, opened(context.new_page(), evaluation.page) as found:
        yield found


@contextlib.contextmanager
def opened(page: Page, path: pathlib.Path) -> Iterator[Page]:
    """A report whose problems are unpacked."""
    with browsers.opened(page, path):
        page.locator("[data-part=ready]").wait_for()
        yield page


def listed(page: Page) -> list[str]:
    return page.locator("[data-part=rows] .id").all_inner_texts()


def choice(page: Page, name: str) -> Any:
    return page.get_by_role("combobox", name=name, exact=True)


def board(page: Page, at: int = 0) -> Any:
    return page.locator("[data-part=article] .board").nth(at)


def masked(page: Page, at: int = 0) -> list[int]:
    """Positions of a board that are not there yet."""
    chips = board(page, at).locator(".canvas .t")
    classes = chips.evaluate_all("all => all.map(one => one.classList.contains('masked'))")
    return [position for position, hidden in enumerate(classes) if hidden]


def later(record: dict[str, Any], after: int) -> list[int]:
    """Positions that are committed after a pass, the undecoded tail left out."""
    return [at for at, when in enumerate(record["trajectory"]["committed_at"]) if when > after]


def test_opens_on_the_chosen_run_wrong_answers_first(evaluation: Evaluation, page: Page) -> None:
    assert choice(page, "Run").locator("option:checked").inner_text() == CHOSEN
    assert listed(page) == evaluation.ids(CHOSEN, sort=lambda r: r["correct"])
    right = sum(record["correct"] for record in evaluation.records[CHOSEN])
    found = page.locator("[data-part=found]").inner_text()
    assert found == f"24 of 24 problems, {right} of them right in this run."


def test_finds_words_of_prompts_and_of_outputs(evaluation: Evaluation, page: Page) -> None:
    search = page.get_by_label("Search")
    record = evaluation.records[CHOSEN][5]
    for words in (record["prompt"][:30].upper(), record["output"].splitlines()[0], "test-7"):
        search.fill(words)
        wanted = words.lower()

        def holds(r: dict[str, Any], wanted: str = wanted) -> bool:
            fields = ("id", "prompt", "reference", "output")
            return any(wanted in r[field].lower() for field in fields)

        assert 0 < len(listed(page)) < 24
        assert listed(page) == evaluation.ids(CHOSEN, holds, lambda r: r["correct"])
    search.fill("nothing has this")
    assert listed(page) == []
    assert page.locator("[data-part=found]").inner_text().startswith("0 of 24 problems")


def test_shows_wrong_ones_right_ones_and_differences(evaluation: Evaluation, page: Page) -> None:
    choice(page, "Run").select_option(UNSURE)
    show = choice(page, "Show")
    by_id = {record["id"]: record["correct"] for record in evaluation.records[BASELINE]}
    wrong = evaluation.ids(UNSURE, lambda r: not r["correct"])
    assert 0 < len(wrong) < 24  # at 0.5 the teacher errs often
    show.select_option("wrong only")
    assert listed(page) == wrong
    assert set(page.locator("[data-part=rows] .mark").all_inner_texts()) == {"wrong"}
    show.select_option("right only")
    assert listed(page) == evaluation.ids(UNSURE, lambda r: r["correct"])
    show.select_option("where the two differ")
    differ = evaluation.ids(UNSURE, lambda r: r["correct"] != by_id[r["id"]])
    assert sorted(listed(page)) == sorted(differ)


def test_sorts_by_passes_and_by_confidence(evaluation: Evaluation, page: Page) -> None:
    def confidence(record: dict[str, Any]) -> float:
        values = record["trajectory"]["confidence"][: record["length"]]
        return round(sum(values) / len(values), 3)

    sort = choice(page, "Sort")
    for label, key in (
        ("slowest first", lambda r: -r["nfe"]),
        ("lowest confidence first", confidence),
        ("highest confidence first", lambda r: -confidence(r)),
        ("as given", None),
    ):
        sort.select_option(label)
        assert listed(page) == evaluation.ids(CHOSEN, sort=key)
    first = page.locator("[data-part=rows] button").first
    record = evaluation.records[CHOSEN][0]
    numbers = first.locator(".number").all_inner_texts()
    assert numbers == [str(record["nfe"]), str(record["length"]), f"{confidence(record):.3f}"]


def test_a_problem_is_opened_and_replayed_by_keyboard(evaluation: Evaluation, page: Page) -> None:
    choice(page, "Sort").select_option("as given")
    page.locator("[data-part=rows] button").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    record, baseline = (evaluation.records[name][1] for name in (CHOSEN, BASELINE))
    article = page.locator("[data-part=article]")
    assert article.locator("h3").inner_text() == "Problem test-1"
    assert article.locator(".question").inner_text() == record["prompt"]
    assert article.locator(".reference b").inner_text() == record["reference"]
    assert board(page).locator("h4").inner_text() == CHOSEN
    assert board(page).locator(".answer").inner_text() == record["output"]
    assert board(page, 1).locator("h4").inner_text() == BASELINE

    # Opened after the last pass of the slower one; the heading has the focus.
    assert masked(page) == masked(page, 1) == []
    page.keyboard.press("ArrowLeft")
    last = baseline["nfe"]
    assert article.locator("output").inner_text() == f"pass {last - 1} of {last}"
    assert masked(page, 1) == later(baseline, last - 1)
    page.get_by_label("Pass", exact=True).focus()
    page.keyboard.press("Home")
    assert masked(page) == later(record, 0)
    assert masked(page, 1) == later(baseline, 0)
    page.keyboard.press("ArrowRight")
    assert masked(page) == later(record, 1)
    page.get_by_label("Next pass").focus()
    page.keyboard.press("Enter")
    assert masked(page) == later(record, 2)
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.dataset.at") == "1"


def test_buttons_step_and_play_and_turn(evaluation: Evaluation, page: Page) -> None:
    choice(page, "Sort").select_option("as given")
    page.locator("[data-part=rows] button").nth(3).click()
    record, baseline = (evaluation.records[name][3] for name in (CHOSEN, BASELINE))
    article = page.locator("[data-part=article]")
    page.get_by_label("Play", exact=True).click()  # from the start, as it was at the end
    page.get_by_label("Pause").click()
    reached = int(article.locator("input").input_value())
    assert reached < baseline["nfe"]
    page.get_by_label("Next pass").click()
    page.get_by_label("Next pass").click()
    page.get_by_label("Previous pass").click()
    assert int(article.locator("input").input_value()) == reached + 1
    assert masked(page) == later(record, reached + 1)
    page.get_by_role("button", name="next problem").click()
    assert article.locator("h3").inner_text() == "Problem test-4"
    assert page.locator("[data-part=place]").inner_text() == "5 of 24"
    page.get_by_role("button", name="previous problem").click()
    choice(page, "Beside it").select_option("nothing")
    assert article.locator("h3").inner_text() == "Problem test-3"
    assert article.locator(".board").count() == 1


def test_every_token_says_what_the_record_holds(evaluation: Evaluation, page: Page) -> None:
    page.locator("[data-part=rows] button").first.click()
    name = page.locator("[data-part=article] h3").inner_text().removeprefix("Problem ")
    record = next(r for r in evaluation.records[CHOSEN] if r["id"] == name)
    trajectory = record["trajectory"]
    chips = board(page).locator(".canvas .t")
    count = sum(at > 0 for at in trajectory["committed_at"])
    assert chips.count() == count
    shown = chips.evaluate_all("all => all.map(one => [one.firstChild.data, one.title])")
    for position, (label, title) in enumerate(shown):
        assert label == TokenText.of(evaluation.text(trajectory["tokens"][position])).label
        assert title.startswith(
            f"position {position + 1}: committed in pass {trajectory['committed_at'][position]} "
            f"of {record['nfe']} "
        )
        assert float(title.split()[-1]) == pytest.approx(
            trajectory["confidence"][position], abs=5.1e-4
        )
    assert board(page).locator(".tail b").inner_text() == str(64 - count)
    chips.nth(2).click()
    assert board(page).locator(".detail").inner_text() == shown[2][1]
    # The answer itself can be read off the chips.
    tokens = trajectory["tokens"][: record["length"]]
    assert "".join(map(evaluation.text, tokens)).strip() == record["output"].strip()


def test_a_problem_looks_as_it_does_on_a_page_of_its_own(
    evaluation: Evaluation, browser: Browser, page: Page, tmp_path: pathlib.Path
) -> None:
    """The board of a packed record and the same decode on a page, from the trajectory itself."""
    choice(page, "Sort").select_option("as given")
    page.locator("[data-part=rows] button").nth(2).click()
    rendered = tmp_path / "page.html"
    shown = [Replay.of(run.trajectory, 2) for run in evaluation.runs]
    panel = Panel(name="2", replays=[shown[2], shown[0]])
    rendered.write_text(render([panel], text=evaluation.text, title="t"), encoding="utf-8")
    look = """boards => boards.map(board => Array.from(board.querySelectorAll(
        ".counter, .bars, .canvas, .tail, .detail"), one => one.outerHTML))"""
    with browser.new_context() as context, browsers.opened(context.new_page(), rendered) as other:
        expected = other.locator(".board").evaluate_all(look)
    found = page.locator(".board").evaluate_all(look)
    assert len(found) == 2
    assert found == expected


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_fits_every_screen_in_both_themes(
    width: int, scheme: Any, evaluation: Evaluation, browser: Browser
) -> None:
    size: Any = {"width": width, "height": 800}
    with (
        browser.new_context(viewport=size, color_scheme=scheme) as context,
        opened(context.new_page(), evaluation.page) as page,
    ):
        page.locator("[data-part=rows] button").first.click()
        assert page.evaluate("document.documentElement.scrollWidth") == width
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, colour[4:-1].split(","))) > 380) == (scheme == "light")


def test_a_run_without_decodes_still_shows_its_answers(
    evaluation: Evaluation, browser: Browser, tmp_path: pathlib.Path
) -> None:
    packed = problems.pack(
        evaluation.paths, text=evaluation.text, shown=CHOSEN, beside=CHOSEN, budget=0
    )
    pictures = {"pareto": (b"", b"")}
    path = tmp_path / "report.html"
    path.write_text(report.render(evaluation.summary, pictures, title="t", packed=packed))
    with browser.new_context() as context, opened(context.new_page(), path) as page:
        text = page.locator("#browser").inner_text()
        assert f"Of {CHOSEN} every decode can be replayed" in text
        choice(page, "Run").select_option(UNSURE)
        choice(page, "Sort").select_option("as given")
        page.locator("[data-part=rows] button").first.click()
        record = evaluation.records[UNSURE][0]
        assert board(page).locator(".answer").inner_text() == record["output"]
        assert f"{record['nfe']} passes" in board(page).locator(".counter").inner_text()
        assert not page.get_by_label("Next pass").is_visible()
        choice(page, "Beside it").select_option(CHOSEN)
        assert page.get_by_label("Next pass").is_visible()


def test_without_scripts_the_page_says_where_the_problems_are(
    evaluation: Evaluation, browser: Browser
) -> None:
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(evaluation.page.as_uri())
        assert "needs JavaScript" in page.locator("#browser").inner_text()
        assert not page.get_by_label("Search").is_visible()
        assert page.locator("table").is_visible()
