"""Steps on the page of `attent explore` that tests in a browser share."""

from typing import Any

from explored import Explored


def open_page(page: Any, server: Explored, view: str = "distributions") -> None:
    page.goto(server.url)
    page.wait_for_selector("#charts[aria-busy=false]")
    if view != "distributions":
        page.click(f"#tab-{view}")


def leave(page: Any) -> None:
    """Leave the page before its server ends, which would be an error in the console."""
    page.wait_for_load_state("networkidle")
    page.goto("about:blank")


def text_of(page: Any, selector: str) -> str:
    return str(page.inner_text(selector))


def wait_for_text(page: Any, selector: str, text: str) -> None:
    page.wait_for_function(
        "([selector, text]) => document.querySelector(selector)?.innerText.includes(text)",
        arg=[selector, text],
    )
