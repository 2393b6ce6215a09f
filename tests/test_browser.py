"""The page in Chromium, on the real gunicorn: `pytest -m browser`."""

from __future__ import annotations

import ast
import io
import json
import re
import shlex
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import cv2
import numpy as np
import pytest

from falconimg import operations
from falconimg._core import Grid
from falconimg.jobs.execution import run_claimed
from falconimg.jobs.ledger import Ledger
from falconimg.operations import Effect, Form, Notice, Operation, number
from tests.conftest import Serve, decoded, encoded, noise, quadrants
from tests.serving import Server, serving

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

    from tests.browser import Page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real server."""
    with serving(tmp_path_factory.mktemp("site"), workers="2") as server:
        yield server


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    """The browser, of which each test has a tab."""
    from tests.browser import chromium

    with chromium() as driver:
        yield driver


@pytest.fixture
def new(chrome: Chrome, tmp_path: Path) -> Page:
    """A new tab."""
    from tests.browser import tab

    return tab(chrome, tmp_path)


@pytest.fixture
def page(new: Page, site: Server) -> Iterator[Page]:
    """The page, of which nothing was wrong when the test is over: no error, and no address but the server's."""
    address = f"http://127.0.0.1:{site.port}/"
    yield new.open(address)
    assert [fault for fault in new.faults() if "/v1/image?" not in fault] == []
    assert [url for url in new.addresses() if not url.startswith((address, "blob:", "data:"))] == []


def smooth(height: int, width: int) -> Any:
    """A picture whose every part looks different: red grows to the right, green downwards."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.dstack([np.full_like(across, 80), down, across]).astype(np.uint8)


def entries(data: bytes) -> dict[str, Any]:
    """The pictures of a zip, by name."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return {name: decoded(archive.read(name)) for name in archive.namelist()}


def corners(page: Page) -> list[tuple[str, float, float]]:
    """(name, left, top) of each result on the screen."""
    script = """return [...document.querySelectorAll('figure')].map((figure) => {
      const box = figure.querySelector('img').getBoundingClientRect();
      return [figure.dataset.name, box.left, box.top];
    })"""
    return [(name, left, top) for name, left, top in page.js(script)]


def test_a_picture_that_is_dropped_is_cut_resized_shown_as_it_lies_and_downloaded(page: Page) -> None:
    pixels = noise(61, 81)
    page.give(("a.png", encoded(pixels)))
    assert page.sizes() == [(81, 61)]
    page.add("Split", "Resize")
    assert page.sizes() == [(20, 15), (20, 15), (20, 15), (20, 15)]
    placed = corners(page)
    assert [name for name, _, _ in placed] == ["a_1.png", "a_2.png", "a_3.png", "a_4.png"]
    (_, x1, y1), (_, x2, y2), (_, x3, y3), (_, x4, y4) = placed
    assert x1 == x3 < x2 == x4
    assert y1 == y2 < y3 == y4
    wanted = [cv2.resize(q, (20, 15), interpolation=cv2.INTER_AREA) for q in quadrants(pixels)]
    page.button("Download zip: a.png").click()
    for index, (name, made) in enumerate(entries(page.downloaded("a.zip")).items()):
        assert name == f"a_{index + 1}.png"
        assert np.abs(made.astype(int) - wanted[index]).max() <= 1
    page.button("Download a_3.png").click()
    assert np.abs(decoded(page.downloaded("a_3.png")).astype(int) - wanted[2]).max() <= 1
    size = f"{len(page.downloaded('a_3.png'))} B"
    assert page.all("figcaption")[2].text.split("\n") == ["20 × 15", size, "↓"]


def test_the_milliseconds_are_said_once_for_results_that_were_made_together(page: Page) -> None:
    page.give(("a.png", encoded(noise(61, 81))))
    assert re.fullmatch(r"81 × 61\n[\d.]+ kB\n[\d.]+ ms\n↓", page.one("figcaption").text)
    page.add("Split")
    assert "ms" not in "".join(str(shot.get_attribute("title")) + shot.text for shot in page.all("figure, .shot"))
    assert re.search(r"4 results, [\d.]+ kB, made together in [\d.]+ ms$", page.one(".picture header .figures").text)


def test_nested_parts_lie_as_they_were_cut(page: Page) -> None:
    page.give(("a.png", encoded(smooth(90, 120))))
    page.add("Split", "Blur", "Split", "Resize")
    page.button("Up: Resize, step 4").click()
    page.settle()
    assert page.steps() == ["split", "blur", "resize", "split"]
    script = "return [...document.querySelectorAll('figure')].map((f) => f.closest('.grid .grid') !== null)"
    assert page.js(script) == [True] * 16
    placed = {name: (left, top) for name, left, top in corners(page)}
    for index in range(16):
        outer, inner = divmod(index, 4)
        column, row = 2 * (outer % 2) + inner % 2, 2 * (outer // 2) + inner // 2
        left, top = placed[f"a_{index + 1}.png"]
        assert column == len({round(x) for x, _ in placed.values() if x < left - 1})
        assert row == len({round(y) for _, y in placed.values() if y < top - 1})


def test_quadrants_by_the_original_s_name_lie_as_they_were_cut_and_are_compared_with_themselves(page: Page) -> None:
    page.give(("a.png", encoded(noise(61, 81))))
    paste(page, '["splitQuadrants=True"]')
    page.settle()
    assert page.sizes() == [(40, 30), (41, 30), (40, 31), (41, 31)]
    (_, x1, y1), (_, x2, y2), (_, x3, y3), (_, x4, y4) = corners(page)
    assert x1 == x3 < x2 == x4
    assert y1 == y2 < y3 == y4
    paste(page, '["splitQuadrants=True", "gray", "splitQuadrants=True", "split=None"]')
    page.settle()
    assert page.js("return document.querySelectorAll('.grid .grid figure').length") == 16
    page.all(".shot")[15].click()
    assert page.wait(lambda: page.js("return document.querySelector('.old').naturalWidth")) == 21
    assert page.js("return document.querySelector('.old').naturalHeight") == 16


def test_tiles_lie_in_their_rows_the_smaller_ones_at_the_edges(page: Page) -> None:
    page.give(("a.png", encoded(smooth(100, 150))))
    page.add("Tile")
    page.set("Size", "64", "#steps")
    assert page.sizes() == [(64, 64), (64, 64), (22, 64), (64, 36), (64, 36), (22, 36)]
    tops = [round(top) for _, _, top in corners(page)]
    assert len(set(tops[:3])) == 1
    assert len(set(tops[3:])) == 1
    assert tops[0] < tops[3]


def test_many_pictures_share_one_recipe_and_go_into_one_zip(page: Page) -> None:
    first, second = noise(20, 30), noise(30, 20, seed=1)
    page.give(("a.png", encoded(first)), ("b.png", encoded(second)), ("a.png", encoded(second)))
    page.add("Rotate")
    assert page.sizes() == [(20, 30), (30, 20), (30, 20)]
    page.button("Download all 3 as a zip").click()
    made = entries(page.downloaded("falconimg.zip"))
    assert list(made) == ["a.png", "b.png", "a (2).png"]
    for name, pixels in (("a.png", first), ("b.png", second), ("a (2).png", second)):
        assert np.array_equal(made[name], cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE))


def test_a_picture_may_be_pasted(page: Page) -> None:
    page.give(("pasted.png", encoded(noise(4, 6))), how="paste")
    assert page.sizes() == [(6, 4)]


def test_what_is_much_too_large_is_a_message_and_nothing_is_made(page: Page) -> None:
    page.give(("a.png", encoded(smooth(60, 80))))
    page.add("Resize")
    page.one("#steps label[for$='-2']").click()  # Width
    page.settle()
    before = len(page.addresses())
    page.set("Width", "128000", "#steps")
    assert "128000" in page.one(".picture .problem").text
    assert page.all(".shot") == []
    asked = [parse_qs(urlsplit(url).query) for url in page.addresses()[before:] if "/v1/image" in url]
    assert asked
    assert all("dry_run" in query for query in asked)


def test_very_many_results_are_made_only_if_the_user_says_so(page: Page) -> None:
    page.give(("a.png", encoded(smooth(60, 80))))
    page.add("Tile")
    assert page.one("#all").is_enabled()
    page.set("Size", "3", "#steps")
    assert "540 results" in page.one(".picture .problem").text
    assert page.all(".shot") == []
    assert not page.one("#all").is_enabled()
    page.button("Make them anyway").click()
    page.there(".shot", 540)
    page.settle()
    assert page.one("#all").is_enabled()
    paste(page, '["split=1x3", "resize=6000x7000"]')
    page.settle()
    assert "3 results of 126 million pixels" in page.one(".picture .problem").text


def test_a_slider_is_followed_only_when_it_is_let_go(page: Page) -> None:
    page.give(("a.png", encoded(smooth(60, 80))))
    page.add("Blur")
    count = len(page.addresses())
    slider = page.one("#steps input[type=range]")
    page.js("arguments[0].value = 41; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))", slider)
    time.sleep(0.3)
    assert len(page.addresses()) == count
    assert page.field("Kernel").get_attribute("value") == "41"
    page.js("arguments[0].dispatchEvent(new Event('change', {bubbles: true}))", slider)
    page.settle()
    assert any("op=blur=41" in url for url in page.addresses()[count:])


def test_what_is_stale_is_cancelled(page: Page) -> None:
    page.give(("a.png", encoded(noise(300, 400))))
    page.add("Blur")
    page.cdp("Network.enable")
    page.cdp("Network.emulateNetworkConditions", offline=False, latency=400, downloadThroughput=-1, uploadThroughput=-1)
    for kernel in (21, 31, 41):
        page.js(
            "const field = arguments[0]; field.value = arguments[1]; field.dispatchEvent(new Event('change'))",
            page.field("Kernel"), kernel,
        )  # fmt: skip
    assert not page.one("#all").is_enabled()  # what there is is of the recipe before
    page.settle()
    assert page.one("#all").is_enabled()
    made = [url for url in page.addresses() if "op=blur=" in url and "dry_run" not in url]
    assert [urlsplit(url).query for url in made] == ["op=blur=15", "op=blur=41"]
    cancelled = [event for event in page.network() if event["params"].get("canceled")]
    assert len(cancelled) == 2


def test_no_object_url_outlives_its_picture(page: Page) -> None:
    page.give(("a.png", encoded(noise(30, 40))))
    page.add("Split", "Blur")
    for kernel in ("3", "5", "7"):
        page.set("Kernel", kernel)
    page.all(".shot")[0].click()
    page.wait(lambda: page.js("return document.querySelector('.old').naturalWidth"))
    page.button("Close", "dialog").click()
    assert page.js("return held.size") <= 6
    page.button("Remove a.png").click()
    assert page.js("return held.size") == 0


def test_a_tiff_is_shown_before_and_after(page: Page) -> None:
    pixels = smooth(50, 70)
    page.give(("a.tiff", encoded(pixels, ".tiff")))
    assert page.sizes() == [(70, 50)]
    page.all(".shot")[0].click()
    assert page.wait(lambda: page.js("return document.querySelector('.old').naturalWidth")) == 70
    page.button("Download", "dialog").click()
    assert page.downloaded("a.tif")[:2] in (b"II", b"MM")


def test_before_and_after_zoom_in_step(page: Page) -> None:
    from selenium.webdriver import ActionChains

    pixels = noise(200, 300)
    page.give(("a.png", encoded(pixels)))
    page.add("Split", "Blur", "Resize")
    page.all(".shot")[3].click()
    page.wait(lambda: page.js("return document.querySelector('.old').naturalWidth") == 150)
    boxes = "return ['.old', '.now'].map((s) => document.querySelector(s).getBoundingClientRect().toJSON())"
    for name, width in (("100 %", 75), ("Larger", 112.5), ("Larger", 150), ("Smaller", 112.5), ("100 %", 75)):
        page.button(name, "dialog").click()
        old, now = page.js(boxes)
        assert old == now
        assert abs(now["width"] - width) < 0.01
        assert abs(now["height"] - width * 2 / 3) < 0.01
    slider = page.one("#split")
    page.js("arguments[0].focus()", slider)
    slider.send_keys("\ue014" * 5)  # arrow right
    shown = "return ['.now', '.old'].map((s) => document.querySelector(s).style.clipPath)"
    assert page.js(shown) == ["inset(0px 0px 0px 55%)", "inset(0px 45% 0px 0px)"]
    down = """document.querySelector('.canvas').dispatchEvent(
      new PointerEvent('pointerdown', {pointerType: 'touch', pointerId: 7, clientX: 0, bubbles: true}))"""
    page.js(down)  # a finger scrolls
    assert page.js(shown)[0] == "inset(0px 0px 0px 55%)"
    drag = ActionChains(page.driver, duration=0).move_to_element(page.one(".canvas")).click_and_hold()
    drag.move_by_offset(75, 0).release().perform()
    assert page.js(shown) == ["inset(0px 0px 0px 100%)", "inset(0px 0% 0px 0px)"]


def test_a_crop_is_drawn_on_the_picture_or_typed(page: Page) -> None:
    from selenium.webdriver import ActionChains

    pixels = noise(200, 400)
    page.give(("a.png", encoded(pixels)))
    page.add("Flip", "Crop")
    assert page.sizes() == [(200, 100)]
    page.button("Draw the frame on the picture…").click()
    page.there("dialog .canvas")
    canvas = page.one("dialog .canvas")
    box = page.js("return arguments[0].getBoundingClientRect().toJSON()", canvas)
    scale = box["width"] / 400
    page.wait(lambda: page.js("return document.querySelector('dialog img').complete"))
    centre = [round(d * scale) for d in (20 - 200, 10 - 100)]
    drag = ActionChains(page.driver, duration=20).move_to_element_with_offset(canvas, *centre).click_and_hold()
    drag.move_by_offset(round(60 * scale), round(40 * scale)).release().perform()
    values = [int(page.field(label, "dialog").get_attribute("value") or 0) for label in ("X", "Y", "Width", "Height")]
    assert all(abs(value - wanted) <= 1 for value, wanted in zip(values, (20, 10, 60, 40), strict=True))
    page.set("X", "30", "dialog")
    page.set("Y", "20", "dialog")
    page.set("Width", "64", "dialog")
    page.set("Height", "48", "dialog")
    frame = page.one("dialog .frame")
    frame.send_keys("\ue014\ue015")  # right and down: moves
    frame.send_keys("\ue008\ue014\ue008")  # with Shift: grows
    page.button("Use this frame").click()
    page.settle()
    page.button("Download a.png").click()
    assert np.array_equal(decoded(page.downloaded("a.png")), cv2.flip(pixels, 1)[21:69, 31:96])


def test_steps_are_reordered_by_dragging_and_by_buttons_and_undone(page: Page) -> None:
    from selenium.webdriver import ActionChains

    page.give(("a.png", encoded(noise(30, 40))))
    page.add("Blur", "Split", "Gray")
    page.button("Down: Blur, step 1").click()
    page.settle()
    assert page.steps() == ["split", "blur", "gray"]
    handles = page.all(".handle")
    ActionChains(page.driver).drag_and_drop(handles[2], handles[0]).perform()
    page.wait(lambda: page.steps() == ["gray", "split", "blur"])
    page.button("Remove: Split, step 2").click()
    page.settle()
    assert page.sizes() == [(40, 30)]
    for wanted in (["gray", "split", "blur"], ["split", "blur", "gray"], ["blur", "split", "gray"], ["blur", "split"]):
        page.button("Undo").click()
        assert page.steps() == wanted
    page.one("body").send_keys("\ue009z\ue009")  # Ctrl+Z
    page.settle()
    assert page.steps() == ["blur"]
    assert page.sizes() == [(40, 30)]


def test_steps_come_in_the_order_of_the_clicks(page: Page) -> None:
    page.give(("a.png", encoded(noise(30, 40))))
    page.js("for (const one of document.querySelectorAll('#operations button'))"
            " if (['Crop', 'Gray'].includes(one.textContent)) one.click()")  # fmt: skip
    page.there("#steps > li", 2)
    page.settle()
    assert page.steps() == ["crop", "gray"]
    assert page.sizes() == [(20, 15)]


def test_a_number_beyond_its_bounds_and_one_that_is_not_set_are_shown_as_such(page: Page, site: Server) -> None:
    page.add("Resize", "Blur")
    page.set("Factor", "500", "#steps")
    fault = page.one("#steps .fault")
    assert fault.text == "Expected a number from 0.05 to 100."
    assert page.field("Factor").get_attribute("aria-invalid") == "true"
    assert page.field("Factor").get_attribute("aria-describedby") == fault.get_attribute("id")
    page.set("Kernel", "2.5", "#steps")
    assert [fault.text for fault in page.all(".fault") if fault.is_displayed()][1:] == [
        "Expected a whole number from 0 to 1001."
    ]
    page.set("Sigma", "0", "#steps")
    assert "over 0 and at most 200" in page.one("#steps").text
    assert page.axe() == []
    page.set("Factor", "0.3", "#steps")
    assert not fault.is_displayed()
    assert page.field("Factor").get_attribute("aria-invalid") == "false"
    slider = "const s = document.querySelector('#output [type=range]'); return [s.value, s.className, s.ariaValueText]"
    assert page.js(slider) == ["51", "unset", "auto"]
    page.field("Format").send_keys("WEBP\t")
    assert page.js(slider) == [str(site.ask("GET", "/")[1]["formats"]["webp"]["quality"]), "", "auto"]
    page.set("Quality", "33")
    assert page.js(slider) == ["33", "", "33"]


def test_with_forced_colours_the_chosen_one_of_several_is_told_from_the_others(page: Page) -> None:
    page.add("Resize")
    page.cdp("Emulation.setEmulatedMedia", features=[{"name": "forced-colors", "value": "active"}])
    grounds = page.js("""return ['.segments', '.segments :checked + label'].map((selector) =>
      getComputedStyle(document.querySelector(selector)).backgroundColor)""")
    assert grounds[0] != grounds[1]


def written(page: Page) -> dict[str, str]:
    """The recipe in each of its forms."""
    page.button("Copy recipe…").click()
    page.there("#shared")
    found = {}
    for label in page.all("dialog .segments label"):
        label.click()
        found[label.text] = str(page.one("#shared").get_attribute("value"))
    page.button("Close", "dialog").click()
    return found


COMMAND = f"{sys.executable} -c 'from falconimg.cli import main; main()'"
RECIPE = [
    {"op": "resize", "width": 40, "height": 30, "fit": "pad", "background": "#ff8800"},
    "splitQuadrants=True",
    {"op": "crop", "width": 10, "height": 8, "x": 2, "y": -1},
    {"op": "rotate", "angle": 270},
]


def test_the_recipe_in_each_of_its_forms_makes_what_the_page_shows(page: Page, site: Server, tmp_path: Path) -> None:
    name = "it's a.png"
    data = encoded(noise(61, 81))
    for folder in (tmp_path, site.root):
        (folder / name).write_bytes(data)
    page.give((name, data))
    page.button("Paste recipe…").click()
    page.one("#pasted").send_keys(json.dumps({"images": [], "operations": RECIPE, "quality": 70}))
    page.button("Use it").click()
    page.there("#steps > li", 4)
    page.settle()
    page.field("Format").send_keys("WEBP\t")
    page.settle()
    page.button(f"Download zip: {name}").click()
    shown = page.downloaded("it's a.zip")
    with zipfile.ZipFile(io.BytesIO(shown)) as archive:
        files = {entry: archive.read(entry) for entry in archive.namelist()}
    assert len(files) == 4
    texts = written(page)
    assert set(texts) == {"curl", "JSON", "command line", "Python"}
    for language, command in (("curl", ["/bin/sh", "-c"]), ("Python", [sys.executable, "-c"])):
        (tmp_path / "it's a.zip").unlink(missing_ok=True)
        subprocess.run([*command, texts[language]], cwd=tmp_path, check=True, timeout=60, capture_output=True)
        with zipfile.ZipFile(tmp_path / "it's a.zip") as archive:
            assert sorted(archive.read(entry) for entry in archive.namelist()) == sorted(files.values()), language
    line = texts["command line"].replace("falconimg", COMMAND, 1)
    subprocess.run(["/bin/sh", "-c", line], cwd=tmp_path, check=True, timeout=60, capture_output=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == files
    status, report = site.ask("POST", "/v1/process", json.loads(texts["JSON"]))[:2]
    assert status == 200
    for output in report["images"][0]["outputs"]:
        assert (site.root / output["path"]).read_bytes() == files[Path(output["path"]).name]


@pytest.mark.parametrize("language", ["curl", "JSON", "command line"])
def test_a_recipe_that_was_copied_is_taken_back(page: Page, language: str) -> None:
    paste(page, json.dumps(RECIPE))
    page.field("Format").send_keys("WEBP\t")
    page.set("Quality", "33")
    first = written(page)
    paste(page, "[]")
    assert page.steps() == []
    paste(page, first[language])
    assert written(page) == first
    assert page.steps() == ["resize", "", "crop", "rotate"]
    paste(page, "curl 'http://localhost/v1/image?op=crop=8x6+1+-2&op=gray&precise=true&quality=9'")
    assert "op=crop=8x6+1+-2&op=gray&quality=9&precise=true'" in written(page)["curl"]
    paste(page, "nonsense")
    assert "Expected JSON of operations" in page.one("#paste-problem").text


def test_a_recipe_for_several_pictures_has_all_of_them_under_names_of_their_own(
    page: Page, site: Server, tmp_path: Path
) -> None:
    files = {"a.png": encoded(noise(6, 8)), "a.tif": encoded(noise(6, 9), ".tif"), "a_2.png": encoded(noise(6, 7))}
    for folder in (tmp_path, site.root):
        for name, data in files.items():
            (folder / name).write_bytes(data)
    page.give(*files.items(), ("a.png", files["a.png"]))
    page.add("Gray")
    asked = {"PNG": ["a.png", "a.tif", "a_2.png", "a_3.png"], "WEBP": ["a.webp", "a_2.webp", "a_3.webp", "a_4.webp"]}
    for form, names in asked.items():
        (site.root / "out").mkdir(exist_ok=True)
        if form == "WEBP":
            page.field("Format").send_keys("WEBP\t")
            page.settle()
        texts = written(page)
        status, report = site.ask("POST", "/v1/process", json.loads(texts["JSON"]))[:2]
        made = [output["path"] for image in report["images"] for output in image["outputs"]]
        assert (status, sorted(made)) == (200, [f"out/{name}" for name in names])
        line = texts["command line"].replace("falconimg", COMMAND)
        scripts = {"curl": ["/bin/sh", "-ec", texts["curl"]], "Python": [sys.executable, "-c", texts["Python"]],
                   "command line": ["/bin/sh", "-ec", line]}  # fmt: skip
        for language, script in scripts.items():
            cwd = tmp_path / form / language
            cwd.mkdir(parents=True)
            for name, data in files.items():
                (cwd / name).write_bytes(data)
            subprocess.run(script, cwd=cwd, check=True, timeout=60, capture_output=True)
            there = {path.name for path in cwd.rglob("*.*") if path.name not in files or path.parent.name == "out"}
            wanted = names if language == "command line" else [name.replace(".", "_new.") for name in names]
            assert sorted(there) == sorted(wanted), language
            paste(page, texts[language]) if language != "Python" else None
            page.settle()
            assert written(page) == texts, language


def test_options_are_written_as_each_language_has_them(page: Page) -> None:
    paste(page, "curl 'http://localhost/v1/image?op=gray&quality=70&background=%23fff&metadata=keep&precise'")
    made = written(page)
    wanted = {"quality": 70, "background": "#fff", "metadata": "keep", "precise": True}
    assert made["curl"].count("?op=gray&quality=70&background=%23fff&metadata=keep&precise=true'") == 1
    assert {key: value for key, value in json.loads(made["JSON"]).items() if key in wanted} == wanted
    flags = "-o out/ -q 70 --background #fff --metadata keep --precise --op gray"
    assert " ".join(shlex.split(made["command line"].replace("\\\n", ""))).endswith(f"picture.jpg {flags}")
    call = next(node for node in ast.walk(ast.parse(made["Python"])) if isinstance(node, ast.Call) and node.keywords)
    params = next(keyword.value for keyword in call.keywords if keyword.arg == "params")
    assert ast.literal_eval(params) == {"op": ["gray"], **wanted}


@pytest.mark.parametrize(
    "recipe",
    [
        '{"images": [{"input": "a.jpg", "output": "b.jpg"}], "operations": ["gray"], "precise": false}',
        "http://localhost/v1/image?op=gray&precise=0&metadata=strip",
    ],
)
def test_what_is_switched_off_is_left_out_in_every_language(page: Page, recipe: str) -> None:
    paste(page, '["gray"]')
    wanted = written(page)
    paste(page, recipe)
    assert written(page) == wanted


PASTED = {
    "falconimg process a.png -o out/ -f jpg --op split": "?op=split&format=jpeg",
    "falconimg process a.png -o out/ -fTIF --op=gray -q80": "?op=gray&format=tiff&quality=80",
    "falconimg process a.png -o out/ --format=jpeg --quality=80": "?format=jpeg&quality=80",
    "falconimg process a.png -o 'out/{dir}/{stem}.webp' --op blur=5": "?op=blur=5&format=webp",
    "falconimg process a.png --output=out/{stem}.{ext} --op blur=5 --precise": "?op=blur=5&precise=true",
    "falconimg process a.jpg -o . -rnq80 --op gray --json 2>/dev/null > report.json": "?op=gray&quality=80",
    "mkdir out && falconimg process a.jpg\n -o out/\n --op gray": "?op=gray",
    "curl 'http://localhost/v1/process' --json '{\"operations\": [\"gray\"]}'": "?op=gray",
    "http://localhost/v1/image/a.png?op=gray&format=jpg": "?op=gray&format=jpeg",
    '{"op": "gray"}': "?op=gray",
    '{"images": [{"input": "a.png", "output": "b.JPEG"}]}': "?format=jpeg",
    '{"images": [{"input": "a.jpg", "output": "b.jpeg"}], "operations": ["gray"]}': "?op=gray",
    '{"images": [{"input": "a.png", "output": "b.png"}, {"input": "a.jpg", "output": "c.png"}]}': "?format=png",
}


def test_no_part_of_a_recipe_that_is_pasted_is_lost(page: Page) -> None:
    for text, query in PASTED.items():
        paste(page, text)
        assert page.all("dialog") == [], (text, page.one("dialog").text)
        assert f"/v1/image{query} " in written(page)["curl"].replace("'", ""), text


REFUSED = {
    "{}": "Expected operations or options of the output, came none of them.",
    '{"images": 5}': "images: expected a list, came 5",
    '{"images": ["a.jpg"]}': 'images: expected an object, came "a.jpg"',
    '{"operations": 5}': "operations: expected a list, came 5",
    '{"operations": [], "quality": "abc"}': 'quality: expected a whole number, came "abc"',
    '{"operations": [], "precise": "yes"}': 'precise: expected true or false, came "yes"',
    '{"operatons": ["gray"]}': 'came "operatons"',
    '{"images": [{"input": "a.jpg", "output": "b.xyz"}]}': 'output: expected one of jpeg, png, webp',
    '{"images": [{"input": "a.jpg", "renditions": [{"output": "b.png"}, {"output": "b.webp"}]}]}':
        "Expected one recipe for all images, came 2.",
    "http://localhost/v1/image?op=gray&quality=abc": 'quality: expected a whole number, came "abc"',
    "http://localhost/v1/image?op=gray&precise=perhaps": 'precise: expected true or false, came "perhaps"',
    "http://localhost/v1/image?op=gray&format=auto": 'format: expected one of jpeg, png, webp',
    "http://localhost/v1/image?op=gray&qualty=80": 'came "qualty"',
    "falconimg process request.json": "Expected the request that is in request.json itself",
    "falconimg process request.json --op gray": "Expected the request that is in request.json itself",
    "falconimg process a.jpg -o out/": "Expected operations or options of the output, came none of them.",
    "falconimg process a.jpg -o out/ --op gray --sepia 5": 'came "--sepia"',
    "falconimg process a.jpg -o out/ --op gray -s5": 'came "-s"',
    "falconimg process a.jpg -o out/ --op": "--op: expected a value, came none",
    "falconimg process a.jpg -o out/ --op gray --precise=1": '--precise: expected no value, came "1"',
    "falconimg process a.jpg -o out/ --op gray\nfalconimg process b.jpg -o out/ --op split":
        "Expected one recipe for all images, came 2.",
    "falconimg process a.jpg -o out/ --op resise=0.5": 'came "resise"',
    '["gray", "resize=500"]': "resize: ",
    '[{"op": "resise", "factor": 0.5}]': 'came "resise"',
    '[{"op": "resize", "factor": "0.5"}]': 'resize: factor: expected a number, came "0.5"',
    '[{"op": "resize", "faktor": 0.5}]': 'came "faktor"',
    "falconimg process a.png -o out/ -f xyz": '-f: expected one of jpeg, png, webp',
}  # fmt: skip


def test_every_option_of_the_command_line_is_known(page: Page) -> None:
    import click

    from falconimg.cli import process

    values = {"-f": "png", "-q": "80", "--op": "gray", "--background": "fff", "--metadata": "keep"}
    options = [option for option in process.params if isinstance(option, click.Option)]
    words = [
        name if option.is_flag else f"{name} {values.get(option.opts[0], 'x.png')}"
        for option in options
        for name in option.opts
    ]
    paste(page, f"falconimg process a.png {' '.join(words)}")
    assert page.all("dialog") == [], page.one("dialog").text


def test_what_is_no_whole_recipe_is_refused_and_the_one_before_stays(page: Page) -> None:
    paste(page, '["gray"]')
    for text, problem in REFUSED.items():
        paste(page, text)
        assert problem in page.one("#paste-problem").text, text
        page.button("Close", "dialog").click()
        assert page.steps() == ["gray"], text


def test_the_json_for_a_picture_without_an_extension_makes_its_own_format(page: Page, site: Server) -> None:
    data = encoded(noise(6, 8))
    (site.root / "bare").write_bytes(data)
    page.give(("bare", data))
    page.add("Gray")
    status, report = site.ask("POST", "/v1/process", json.loads(written(page)["JSON"]))[:2]
    assert (status, report["images"][0]["outputs"][0]["path"]) == (200, "out/bare.png")
    assert (site.root / "out" / "bare.png").read_bytes()[1:4] == b"PNG"


def paste(page: Page, text: str) -> None:
    """Paste a recipe, and wait until it is taken or refused."""
    page.wait(lambda: not page.all("dialog"))
    page.button("Paste recipe…").click()
    page.js("arguments[0].value = arguments[1]", page.one("#pasted"), text)
    page.button("Use it").click()
    page.wait(lambda: page.js("return !document.querySelector('dialog :is(#paste-problem[hidden])')"))


def test_where_the_server_wants_a_token_the_page_asks_for_it(new: Page, tmp_path: Path) -> None:
    page, right = new, "a-token-of-16-characters"
    with serving(tmp_path, token=right) as server:
        page.open(f"http://127.0.0.1:{server.port}/")
        page.give(("a.png", encoded(noise(4, 6))))
        page.set("Token", "a-token-of-16-characterś")
        page.button("Unlock").click()
        assert page.one("#token-problem").text.startswith("A token has only letters A to Z")
        page.set("Token", "another-of-16-characters")
        page.button("Unlock").click()
        page.wait(lambda: page.one("#token").is_displayed() and not page.all("[aria-busy]"))
        assert not page.one("#token-problem").is_displayed()
        assert page.all(".shot") == []
        page.one("#token").send_keys(f"{right}\n")
        page.there(".shot")
        assert page.sizes() == [(6, 4)]
        assert not page.one("#unlock").is_displayed()
        texts = written(page)
        assert "$TOKEN" in texts["curl"]
        assert right not in "".join(texts.values())
        assert page.js("return [localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_screen(page: Page, scheme: str, width: int) -> None:
    page.media(scheme, width)
    assert page.axe() == []
    page.give(
        ("IMG_20261201_123456_holiday_in_norway_edited_final.jpg", encoded(smooth(300, 400))),
        ("no-picture-but-a-very-long-name" * 3 + ".txt", b"hello"),
    )
    page.add("Split", "Resize", "Crop", "Rotate", "Tile", "Flip", "Gray", "Blur")
    page.one("summary").click()
    paste(page, json.dumps([*RECIPE, "nonsense"]))
    page.button("Close", "dialog").click()
    paste(page, json.dumps(RECIPE))
    page.settle()
    for name, opened in ((None, "main"), ("Copy recipe…", "#shared"), ("Paste recipe…", "#pasted"),
                         ("Draw the frame on the picture…", ".frame"), ("shot", ".stage")):  # fmt: skip
        if name:
            (page.all(".shot")[0] if name == "shot" else page.button(name)).click()
        page.there(opened)
        assert page.axe() == [], opened
        wider = """return [...document.querySelectorAll('html, #files, #status, dialog')]
          .filter((element) => element.scrollWidth > element.clientWidth).map((element) => element.outerHTML)"""
        assert page.js(wider) == [], opened
        if name:
            page.button("Close", "dialog").click()


def test_everything_is_done_by_keyboard_alone(page: Page) -> None:
    tab, enter, right = "\ue004", "\ue007", "\ue014"
    page.one("#file").send_keys(_file(page, "a.png", noise(30, 40)))
    page.settle()

    def go(label: str) -> None:
        """Tab on until the control of that name has the focus."""
        page.driver.switch_to.active_element.send_keys("")
        for _ in range(80):
            page.driver.switch_to.active_element.send_keys(tab)
            active = page.driver.switch_to.active_element
            if label in (
                active.text,
                active.get_attribute("aria-label"),
                page.js("return arguments[0].labels?.[0]?.innerText", active),
            ):
                assert page.js("return arguments[0].matches(':focus-visible')", active)
                return
        raise AssertionError(f"{label} is not reached")

    def press(key: str) -> None:
        page.driver.switch_to.active_element.send_keys(key)
        page.settle()

    for title in ("Split", "Blur"):
        go(title)
        press(enter)
        page.there(f"[data-op={title.lower()}]")
    go("Up: Blur, step 2")
    press(enter)
    assert page.steps() == ["blur", "split"]
    assert page.driver.switch_to.active_element.get_attribute("aria-label") == "Down: Blur, step 1"
    go("Kernel, slider")
    press(right)
    assert page.field("Kernel").get_attribute("value") == "17"
    go("Undo")
    press(enter)
    assert page.field("Kernel").get_attribute("value") == "15"
    go("Remove: Split, step 2")
    press(enter)
    assert page.steps() == ["blur"]
    go("Download a.png")
    press(enter)
    assert decoded(page.downloaded("a.png")).shape == (30, 40, 3)
    page.all(".shot")[0].send_keys(enter)
    page.wait(lambda: page.all("dialog"))
    press("\ue00c")  # Escape
    page.wait(lambda: not page.all("dialog"))


def _file(page: Page, name: str, pixels: Any) -> str:
    path = page.downloads / "in" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(encoded(pixels))
    return str(path)


def test_without_scripts_the_page_says_what_to_do(page: Page) -> None:
    page.cdp("Emulation.setScriptExecutionDisabled", value=True)
    page.driver.refresh()
    text = page.one("noscript").text
    assert "curl --data-binary" in text
    assert "/docs" in text


def test_a_file_that_is_no_picture_says_so_and_its_neighbours_are_made(page: Page) -> None:
    page.give(("hello.png", b"hello"))
    assert page.status().startswith("hello.png: ")
    page.give(("a.png", encoded(noise(4, 6))))
    assert "no format" in page.one("[aria-label='hello.png'] .problem").text
    assert "Try again" not in page.one("#results").text  # it would not help
    assert page.sizes() == [(6, 4)]
    page.cdp("Network.enable")
    page.cdp("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    page.add("Gray")
    assert "The server does not answer." in page.one("[aria-label='a.png'] .problem").text
    page.cdp("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    page.button("Try again", "[aria-label='a.png']").click()
    page.settle()
    assert page.sizes() == [(6, 4)]


class Own(threading.Thread):
    """The application of a test in this process, on a port of its own."""

    def __init__(self, app: Any) -> None:
        from socketserver import ThreadingMixIn
        from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

        class Threads(ThreadingMixIn, WSGIServer):
            daemon_threads = True

        class Quiet(WSGIRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Nothing."""

        super().__init__(daemon=True)
        self.server = Threads(("127.0.0.1", 0), Quiet)
        self.server.set_app(app)
        self.port = self.server.server_port

    def run(self) -> None:
        self.server.serve_forever(0.05)

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.join(10)


@dataclass(frozen=True)
class Strips(Operation):
    """Strips, one below the other."""

    count: int

    name = "strips"
    forms = (Form("strips=N", '{"op": "strips", "count": N}', "N strips"),)
    properties: ClassVar = {"count": {"type": "integer", "minimum": 1, "maximum": 9, "x-start": 3}}
    required = ("count",)
    parts = "fixed"

    @classmethod
    def read(cls, value: str | None, name: str) -> dict[str, Any]:
        return {"count": number(value or "")}

    def effect(self, shape: Any, notice: Notice) -> Effect:
        return Grid([shape.height * row // self.count for row in range(self.count + 1)], [0, shape.width])


def test_a_new_operation_is_on_the_page_by_itself(new: Page, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    for table in (operations.OPERATIONS, operations.NAMES):
        monkeypatch.setitem(table, "strips", Strips)
    app = Own(serve().app)
    app.start()
    try:
        page = new.open(f"http://127.0.0.1:{app.port}/")
        page.give(("a.png", encoded(noise(12, 7))))
        page.add("Strips")
        assert page.sizes() == [(7, 4)] * 3
        slider = page.one("#steps input[type=range]")
        assert [slider.get_attribute(name) for name in ("min", "max", "aria-label")] == ["1", "9", "Count, slider"]
        slider.send_keys("\ue014")
        page.settle()
        assert page.sizes() == [(7, 3)] * 4
        assert "op=strips=4" in written(page)["curl"]
    finally:
        app.stop()


def test_what_the_server_has_no_memory_for_is_not_sent(new: Page, serve: Serve) -> None:
    app = Own(serve(memory=2**25).app)
    app.start()
    try:
        page = new.open(f"http://127.0.0.1:{app.port}/")
        page.give(("a.png", bytes(2**20 + 1)))
        assert page.status() == "a.png has 1.0 MB; the server takes 1.0 MB."
        assert [url for url in page.addresses() if "/v1/image" in url] == []
    finally:
        app.stop()


def test_behind_a_prefix_the_page_asks_for_nothing_outside_it(new: Page, serve: Serve) -> None:
    app = Own(serve(prefix="/pictures/img").app)
    app.start()
    try:
        page = new.open(f"http://127.0.0.1:{app.port}/pictures/img")
        assert page.driver.current_url.endswith("/pictures/img/")
        page.give(("a.png", encoded(noise(4, 6))))
        page.add("Split")
        assert len(page.sizes()) == 4
        assert "/pictures/img/v1/image?op=split" in written(page)["curl"]
        own = f"http://127.0.0.1:{app.port}/pictures/img"
        assert [url for url in page.addresses() if not url.startswith((own, "blob:", "data:"))] == []
    finally:
        app.stop()


def test_the_page_shows_a_job_s_progress_and_cancels_and_retries_it(new: Page, serve: Serve, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    server = serve(jobs=True, ledger=url)
    ledger = Ledger(url)
    server.put("a.png", noise(4, 6))
    images = [{"input": name, "output": f"out/{n}.png"} for n, name in enumerate(["nix.png", "a.png", "a.png"])]
    id_ = server.post("/v1/jobs", {"images": images}).json["id"]
    app = Own(server.app)
    app.start()

    def make() -> None:
        [claim] = ledger.claim(1, 60)
        assert run_claimed(claim, server.pipeline, ledger)

    try:
        page = new.open(f"http://127.0.0.1:{app.port}/")
        page.one("#jobs summary").click()
        page.there(".job")
        words = "return document.querySelector('.job > .unit').textContent"
        page.wait(lambda: page.js(words) == "queued: 0 of 3 images")
        make()
        page.wait(lambda: page.js(words) == "running: 1 of 3 images, 1 failed")
        assert page.one(".job code").text == id_
        page.wait(lambda: page.one(".job").text.count("nix.png: The image does not exist"))
        make()
        page.wait(lambda: page.js("return document.querySelector('.job progress').value") == 2)
        assert page.axe() == []
        page.one(".job button[aria-label^=Cancel]").click()
        page.wait(lambda: page.js(words) == "cancelled: 3 of 3 images, 1 failed, 1 cancelled")
        page.one(".job button[aria-label^=Retry]").click()
        page.wait(lambda: page.js(words) == "queued: 2 of 3 images, 1 cancelled")
        page.wait(lambda: "does not exist" not in page.one(".job").text)
        assert ledger.job(id_)["state"] == "queued"
        assert [fault for fault in page.faults() if "favicon" not in fault] == []
    finally:
        app.stop()
        ledger.close()
