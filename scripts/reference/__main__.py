"""Writes every reference page whose generated half differs from the code."""

from scripts.reference.pages import PAGES, page_file, render


def main() -> None:
    for topic in PAGES:
        text = render(topic)
        if text != page_file(topic).read_text("utf-8"):
            page_file(topic).write_text(text, "utf-8")
            print(f"manual: {page_file(topic)}")


main()
