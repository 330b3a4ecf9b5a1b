import pytest
from hypothesis import given
from hypothesis import strategies as st

from yoi_daemon.model.errors import Refused
from yoi_daemon.runtime.transcript import Page, Transcript

texts = st.lists(st.text("aé€𝄞", max_size=12), min_size=1, max_size=12)


def transcript_of(texts: list[str], max_items: int = 1000, max_bytes: int = 10**6) -> Transcript:
    made = Transcript(max_items=max_items, max_bytes=max_bytes)
    for number, text in enumerate(texts):
        made.append(item_id=f"itm_{number:04}", role="user", text=text, time=f"t{number}")
    return made


def page(made: Transcript, after=None, before=None, limit=100, max_bytes=10**6) -> Page:
    return made.page(after=after, before=before, limit=limit, max_bytes=max_bytes)


def check(made: Transcript, read: Page, limit: int, max_bytes: int) -> None:
    whole = {item.item_id: item for item in made.items()}
    assert len(read.items) <= limit
    assert sum(len(item.text.encode()) for item in read.items) <= max_bytes
    for item in read.items:
        full = whole[item.item_id]
        assert full.text.startswith(item.text)
        assert item.truncated == (item.text != full.text)
        assert item.full_bytes == len(full.text.encode())
        assert (item.role, item.time) == (full.role, full.time)
        if item.truncated:
            assert sum(one.full_bytes > 0 for one in read.items) == 1
            assert len(full.text[: len(item.text) + 1].encode()) > max_bytes


@given(texts, st.integers(1, 5), st.integers(1, 60))
def test_walking_back_visits_every_item_once(texts, limit, max_bytes):
    made = transcript_of(texts)
    seen: list[str] = []
    read = page(made, limit=limit, max_bytes=max_bytes)
    assert read.after is None
    while True:
        check(made, read, limit, max_bytes)
        seen = [item.item_id for item in read.items] + seen
        if read.before is None:
            break
        read = page(made, before=read.before, limit=limit, max_bytes=max_bytes)
    assert seen == [item.item_id for item in made.items()]


@given(texts, st.integers(1, 5), st.integers(1, 60))
def test_walking_on_visits_every_item_once(texts, limit, max_bytes):
    made = transcript_of(texts)
    seen = ["itm_0000"]
    following = "itm_0000" if len(texts) > 1 else None
    while following is not None:
        read = page(made, after=following, limit=limit, max_bytes=max_bytes)
        check(made, read, limit, max_bytes)
        assert read.before == read.items[0].item_id
        seen += [item.item_id for item in read.items]
        following = read.after
    assert seen == [item.item_id for item in made.items()]


def test_a_page_of_an_empty_transcript_is_empty():
    assert page(transcript_of([])) == Page(items=(), before=None, after=None)


def test_the_page_after_the_last_is_empty():
    assert page(transcript_of(["a"]), after="itm_0000").items == ()


def test_a_large_item_is_cut_at_a_character_and_says_so():
    (item,) = page(transcript_of(["old", "€€€"]), max_bytes=7).items
    assert (item.text, item.truncated, item.full_bytes) == ("€€", True, 9)


@given(texts, st.integers(1, 6), st.integers(1, 40))
def test_a_transcript_is_bounded_and_keeps_the_latest(texts, max_items, max_bytes):
    made = transcript_of(texts, max_items, max_bytes)
    kept = [item.text for item in made.items()]
    assert kept == texts[len(texts) - len(kept) :]
    assert 1 <= len(made) == len(kept) <= max_items
    assert len(kept) == 1 or sum(len(text.encode()) for text in kept) <= max_bytes
    assert made.evicted == len(texts) - len(kept)
    if made.evicted:
        following = texts[made.evicted - 1 :]
        assert len(following) > max_items or len("".join(following).encode()) > max_bytes


@pytest.mark.parametrize("asked", [{"after": "itm_0000"}, {"before": "nonsense"}])
def test_an_item_it_does_not_have_is_refused(asked):
    made = transcript_of(["a", "b"], max_items=1)
    with pytest.raises(Refused, match="no such item; its 1 oldest were evicted"):
        page(made, **asked)


def test_both_directions_at_once_are_refused():
    with pytest.raises(Refused, match="not both"):
        page(transcript_of(["a"]), after="itm_0000", before="itm_0000")


def test_a_text_that_is_no_text_changes_nothing():
    made = transcript_of(["a"])
    with pytest.raises(UnicodeEncodeError):
        made.append(item_id="itm_0001", role="user", text="\ud800", time="t")
    assert len(made) == 1
