"""The first screen of the results page, its accessibility, and the page in a real browser where there is one.

The last tests use the system's Chromium (`apt-get install chromium`), or that of `playwright install chromium`.
"""

import math
import re
import shutil
from itertools import pairwise

import pytest
from test_analysis import STUDY, diverge, filled, find
from test_page import Reader

from mlssl.analysis.collect import collect
from mlssl.page.write import write_page

PHOTOS = {"photos": {"folder": "shop", "labels": "shop.csv"}}
KINDS = {"default": {}, "photos": {"data": PHOTOS, "about": "Photos of a shop."}, "failed": {}}


def made(kind):
    """The page of a finished study, of one on own photos, or of one with failed and missing runs."""
    study = filled(STUDY | KINDS[kind])
    if kind == "failed":
        for params in ({"k": 5}, {"k": 1}):
            diverge(study, find(study, "mls", 0, **params))
        for method in ("moco_v2", "random"):
            study.result(find(study, method, 1).id, "linear").unlink()
    collect(study)
    return write_page(study)


@pytest.fixture(
    scope="module",
    params=["default", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("photos", "failed"))],
)
def page(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp(request.param))
        yield request.param, made(request.param).resolve()


class Blocks(Reader):
    """Also keeps the text of every block, with its tag and whether it is in a card, in the order of the page."""

    def __init__(self, text):
        self.blocks, self.cards, self.section = [], [], 0
        super().__init__(text)

    def handle_starttag(self, tag, attributes):
        super().handle_starttag(tag, attributes)
        if tag == "section":
            self.section += 1
        if tag == "div":
            self.cards.append(len(self.open) if dict(attributes).get("class") == "card" else 0)
        if tag in ("h1", "h2", "p", "li", "dt", "dd", "img", "table"):
            self.blocks.append([tag, self.section, any(self.cards), ""])

    def handle_endtag(self, tag):
        super().handle_endtag(tag)
        if tag == "div":
            self.cards.pop()

    def handle_data(self, data):
        super().handle_data(data)
        if self.blocks and {"style", "script", "title"}.isdisjoint(self.open):
            self.blocks[-1][3] += data


def first_screen(path):
    """Header and cards: the blocks before the first one after the cards."""
    found = Blocks(path.read_text()).blocks
    blocks = [(tag, " ".join(text.split()), section, card) for tag, section, card, text in found]
    last = max(i for i, block in enumerate(blocks) if block[3])
    return blocks[: last + 1]


def test_the_first_section_answers_what_how_much_how_sure_and_at_what_cost(page):
    kind, path = page
    blocks = first_screen(path)
    assert {section for *_, section, _ in blocks} == {0, 1}
    assert not {"img", "table"} & {tag for tag, *_ in blocks}
    assert [text for tag, text, *_ in blocks if tag in ("h1", "h2")] == [
        "tiny", "What you gain" if kind == "photos" else "What pretraining gains", "What it costs", "How sure"
    ]  # fmt: skip
    answers = [text for tag, text, *_ in blocks if tag == "li"]
    assert [answer.split(":")[0] for answer in answers] == ["MoCo-v2", "MLS"]
    interval = r"[+-]\d+\.\d\d \[-?\d+\.\d\d, -?\d+\.\d\d\], n = [23]"
    one_seed = "MLS: +10.00, n = 1 one seed"
    assert all(re.search(interval, answer) or answer == one_seed for answer in answers), answers
    assert (answers[1] == one_seed) == (kind == "failed")
    facts = [text for tag, text, *_ in blocks if tag in ("dt", "dd")]
    facts = dict(zip(facts[::2], facts[1::2], strict=True))
    assert facts["seeds"] == "3"
    assert facts["evaluated on"] == "100 images or crops"
    assert re.fullmatch(r"\d+\.\d (minutes|hours) of computing", facts["all results so far"])
    assert re.fullmatch(r"[\d.]+ points or more|not known yet", facts["can tell methods apart by"])
    state = blocks[1][1]
    assert ("failed" in state, "missing" in state) == ((kind == "failed"),) * 2, state


PHONE = 844
LINE, HEADING, GAP = 21.75, 26, 12.8
"""Pixels: a line of 15 px text, a heading with its margin, the space between cards (style.css)."""
WIDTH = 43
"""Characters in a line of a card at 390 px: 342 px, 7.9 px a character on average."""


def test_the_first_section_fits_on_a_phone_by_its_number_of_lines(page):
    def lines(text, width):
        return max(1, math.ceil(len(text) / width))

    blocks, height = first_screen(page[1]), 3 * (GAP + 25)
    for i, (tag, text, *_) in enumerate(blocks):
        if tag in ("h1", "h2"):
            height += HEADING * lines(text, 36)
        elif tag == "dt":
            height += LINE * max(lines(text, WIDTH * 2 // 5), lines(blocks[i + 1][1], WIDTH * 3 // 5)) + 5
        elif tag in ("li", "p"):
            height += LINE * lines(text, WIDTH) + 6
    assert height < PHONE


def test_the_parsed_page_has_landmarks_labels_and_headings_in_order(page):
    reader = Reader(page[1].read_text())
    assert [a.get("lang") for a in reader.of("html")] == ["en"]
    assert [len(reader.of(tag)) for tag in ("main", "h1", "title", "header")] == [1] * 4
    levels = [int(tag[1]) for tag, _ in reader.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert all(image.get("alt", "").strip() for image in reader.of("img"))
    assert all(head.get("scope") in ("col", "row") for head in reader.of("th"))
    inside = re.findall(r"<label>(?:(?!</label>).)*<input", page[1].read_text())
    assert len(inside) == len(reader.of("input"))  # every field is inside its label
    assert all(a["aria-label"] and a["tabindex"] == "0" for a in reader.of("div") if a.get("role") == "region")
    assert {a["href"][1:] for a in reader.of("a") if a["href"].startswith("#")} <= {
        a.get("id") for _, a in reader.elements
    }
    assert not re.search(r"<a [^>]*></a>|<summary></summary>", page[1].read_text())


QUIET = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync")
"""No sandbox, as tests may run as root; and no connection of the browser's own."""


def find_browser():
    """The system's Chromium; None for the one that playwright has downloaded."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as started:
        try:
            opened = started.chromium.launch(executable_path=find_browser(), args=QUIET)
        except api.Error as error:
            pytest.skip(f"chromium cannot be started: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


SIZES = pytest.mark.parametrize("size", [(1440, 900), (390, 844)], ids=["desktop", "phone"])


@pytest.fixture
def tab(browser, page, size):
    """The page in a window of this size, without a network; nothing may be said on the console or asked for."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, offline=True)
    tab, said = context.new_page(), []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    outside = re.compile("(?!file:|data:)")
    tab.on("request", lambda request: said.extend([request.url] if outside.match(request.url) else []))
    tab.goto(page[1].as_uri())
    yield tab
    context.close()
    assert said == []


@pytest.mark.slow
@SIZES
def test_the_first_screen_of_a_browser_has_all_answers_and_nothing_overlaps(tab, size):
    assert tab.evaluate("document.documentElement.scrollWidth") <= size[0]
    cards = [card.bounding_box() for card in tab.locator("#answer .card").all()]
    assert len(cards) == 3
    assert all(card["x"] >= 0 and card["x"] + card["width"] <= size[0] for card in cards)
    assert all(card["y"] + card["height"] <= size[1] for card in cards)
    # Blocks follow each other: none begins above the end of the one before it, side by side or below.
    overlaps = """() => [...document.querySelectorAll("main, main > section, section > *, article > *, .pair > *")]
        .filter(block => block.nextElementSibling && block.getClientRects().length)
        .map(block => [block.getBoundingClientRect(), block.nextElementSibling.getBoundingClientRect()])
        .filter(([a, b]) => b.height && a.bottom > b.top + 1 && a.right > b.left + 1).length"""
    assert tab.evaluate(overlaps) == 0


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1440, 900)], ids=["desktop"])
def test_a_table_is_sorted_by_mouse_and_keyboard(tab):
    heads = tab.locator("#main-table > .scroll th button")

    def column():
        cells = tab.locator("#main-table > .scroll tbody tr td:nth-child(2)")
        return cells.evaluate_all("cells => cells.map(cell => cell.dataset.key ?? null)")

    heads.nth(1).click()
    rising = [float(key) for key in column() if key is not None]
    assert rising == sorted(rising)
    heads.nth(1).focus()
    tab.keyboard.press("Enter")
    falling = [float(key) for key in column() if key is not None]
    assert falling == rising[::-1]
    assert tab.locator("#main-table > .scroll th").nth(1).get_attribute("aria-sort") == "descending"

    seeds = tab.locator("#main-table .seeds")
    assert not seeds.first.is_visible()
    tab.get_by_label("values of all seeds").first.check()
    assert seeds.first.is_visible()


@pytest.mark.slow
@pytest.mark.parametrize("size", [(390, 844)], ids=["phone"])
def test_the_keyboard_reaches_all_that_can_be_used(tab):
    tab.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    wanted = tab.evaluate("""() => [...document.querySelectorAll("a[href], button, input, summary, [tabindex]")]
        .filter(one => one.getClientRects().length).map((one, i) => { one.dataset.order = i; return i; })""")
    reached = []
    for _ in wanted:
        tab.keyboard.press("Tab")
        reached.append(tab.evaluate("Number(document.activeElement.dataset.order ?? -1)"))
    assert reached == wanted
    assert tab.evaluate("document.querySelector('.skip') === document.querySelector('[data-order=\"0\"]')")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "scheme"), [((1440, 900), "light"), ((390, 844), "dark")], ids=["desktop-light", "phone-dark"]
)
def test_axe_finds_nothing_serious(tab, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing")
    tab.emulate_media(color_scheme=scheme)
    tab.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    found = axe.Axe().run(tab).response["violations"]
    assert [
        (one["id"], one["nodes"][0]["target"]) for one in found if one["impact"] in ("serious", "critical")
    ] == []
