"""Frames on disk: what was written is read, by anybody, at any time, after any end."""

import io
import struct
import threading
import zlib
from itertools import count as counting
from itertools import groupby
from itertools import pairwise
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from catalog.errors import Damaged
from catalog.errors import TransientError
from flows import spool as module
from flows.frames import Decoder
from flows.frames import Frame
from flows.frames import encode
from flows.frames import intact
from flows.groups import Group
from flows.groups import frame_pages
from flows.groups import landed_groups
from flows.landing import Landing
from flows.refining import split
from flows.spool import Spool
from flows.spool import StintNote
from flows.spool import left_behind

_NUMBERS = counting(100)
frames = st.lists(st.builds(Frame, st.binary(max_size=40), st.integers(0, 2**62), st.booleans()), max_size=30)


@pytest.fixture
def spool(tmp_path):
    made = []

    def make(**fetches):
        landing = Landing(tmp_path)
        fetches = fetches or {"trades": 7}
        for fetch in fetches.values():
            landing.begin("feed", fetch, {"asked": "live"})
        made.append(Spool(landing, StintNote("feed", min(fetches.values()), fetches)))
        return made[-1]

    yield make
    for one in made:
        one.abandon()


def frame(number, context=False):
    return Frame(f"message {number}".encode(), number, context)


def read(found):
    return [one for group in found if group is not None for one in group.frames]


@given(frames, st.lists(st.integers(1, 50), max_size=30))
def test_frames_come_back_from_any_pieces(given_frames, cuts):
    content = encode(given_frames)
    decoder, found, at = Decoder(5), [], 0
    for size in [*cuts, len(content)]:
        found += decoder.feed(content[at : at + size])
        at += size
    decoder.finish()
    assert [(one.content, one.received, one.context) for one in found] == [
        (one.content, one.received, one.context) for one in given_frames
    ]
    data = [one.number for one in found if not one.context]
    assert data == list(range(5, 5 + len(data)))


@given(frames, st.integers(0, 2000))
def test_a_torn_file_ends_at_its_last_whole_frame(given_frames, size):
    content = encode(given_frames)
    torn = content[: min(size, len(content))]
    whole, count = intact(io.BytesIO(torn))
    found = Decoder().feed(torn[:whole])
    assert len([one for one in found if not one.context]) == count
    rest = given_frames[len(found) :]
    blocks = [list(some) for _, some in groupby(rest, lambda one: (one.received, one.context))]
    assert not blocks or len(torn) < whole + len(encode(blocks[0]))


@settings(max_examples=30)
@given(frames.filter(bool), st.data())
def test_a_changed_byte_is_noticed(given_frames, data):
    content = bytearray(encode(given_frames))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 0x55
    with pytest.raises(Damaged):
        _read_all(bytes(content))


def _read_all(content):
    decoder = Decoder()
    decoder.feed(content)
    decoder.finish()


def test_a_block_is_laid_out_as_the_document_says():
    content = encode([Frame(b"abc", 5), Frame(b"", 5), Frame(b"de", 5), Frame(b"f", 6)])
    first, second = content[:38], content[38:]
    assert struct.unpack("<IIqBIIII", first[:33]) == (17, zlib.crc32(first[8:]), 5, 0, 3, 3, 0, 2)
    assert first[33:] == b"abcde"
    assert struct.unpack("<IIqBII", second[:25]) == (5, zlib.crc32(second[8:]), 6, 0, 1, 1)
    assert second[25:] == b"f"
    assert encode([]) == b""


def test_a_block_holds_a_mebibyte_or_a_single_frame():
    large, small = Frame(bytes(3 << 19), 5), Frame(bytes(1 << 19), 5)
    sizes = [Decoder().feed(encode(some)) for some in ([large], [small, small], [small, small, small, large, small])]
    assert [[len(one.content) for one in found] for found in sizes] == [
        [3 << 19], [1 << 19] * 2, [1 << 19] * 3 + [3 << 19, 1 << 19],
    ]  # fmt: skip
    assert len(encode([small, small])) == 21 + 8 + (1 << 20)
    assert len(encode([small, small, small])) == 2 * 21 + 12 + (3 << 19)


def test_readers_follow_the_writer(spool):
    spooled = spool()
    found = []

    def follow():
        found.extend(read(spooled.read(0)))

    reader = threading.Thread(target=follow)
    reader.start()
    for number in range(500):
        spooled.append([frame(number)])
        spooled.flush()
        if number % 100 == 99:
            spooled.roll()
    spooled.end()
    reader.join(20)
    assert [one.content for one in found] == [frame(number).content for number in range(500)]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(["frame", "frame", "context", "flush", "flush", "roll", "read", "seal"]), max_size=60),
    st.sampled_from([0, 300, 900, 1 << 20]),
)
def test_whoever_follows_has_every_frame_once_after_its_contexts(spool, steps, kept):
    spooled = spool(trades=next(_NUMBERS))
    contexts, said, found = [], {}, []
    count = 0
    with patch.object(module, "_FRESH_BYTES", kept):
        groups = spooled.follow()
        for step in [*steps, "flush"]:
            if step == "frame":
                spooled.append([frame(count)])
                said[count] = len(contexts)
                count += 1
            elif step == "context":
                contexts.append(Frame(f"context {len(contexts)}".encode(), 1, True))
                spooled.append(contexts[-1:])
            elif step == "flush":
                spooled.flush()
            elif step == "roll":
                spooled.roll(contexts)
            elif step == "seal":
                spooled.seal()
            elif (group := next(groups)) is not None:
                found.append(group)
        spooled.end()
        found += [group for group in groups if group is not None]
    heard, known = [], None
    for group in found:
        assert [one.number for one in group.frames if not one.context] == list(range(group.first, group.end))
        for one in group.frames:
            if one.context:
                known = int(one.content.split()[1]) + 1
            else:
                heard.append(one.content)
                assert (known or 0) == said[one.number]
    assert heard == [frame(number).content for number in range(count)]


def test_contexts_begin_each_file_and_are_read_whatever_the_start(spool):
    spooled = spool()
    context = frame(99, context=True)
    for part in range(3):
        spooled.roll([context])
        for number in range(part * 10, part * 10 + 10):
            spooled.append([frame(number)])
        spooled.flush()
    spooled.end()
    groups = [group for group in spooled.read(15, spooled.holding(15)) if group is not None]
    assert [(group.part, group.first, group.end) for group in groups] == [(1, 15, 20), (2, 20, 30)]
    assert all(group.frames[0].context and group.frames[0].content == context.content for group in groups)


def test_sealed_files_are_pages_of_every_fetch_that_has_them(spool):
    spooled = spool(trades=7)
    spooled.append([frame(0)])
    spooled.flush()
    spooled.landing.begin("feed", 8, {"asked": "later"})
    spooled.join("quotes", 8)
    spooled.append([frame(1)])
    spooled.end()
    reading = spooled.read(0)
    first = next(reading)
    spooled.seal()
    pages = spooled.landing.pages("feed", 7)
    assert [page.manifest.facts for page in pages] == [{"first": 0, "frames": 1}, {"first": 1, "frames": 1}]
    assert [page.manifest.part for page in spooled.landing.pages("feed", 8)] == [1]
    shared = spooled.landing.pages("feed", 8)[0]
    assert shared.path.stat().st_ino == pages[1].path.stat().st_ino
    assert (shared.manifest.fetch, shared.request) == (8, {"asked": "later"})
    for page in pages:
        page.verify()
    # who was reading goes on, from the sealed file
    assert read([first]) + read(reading) == [one for page in pages for one in read(landed_groups(page, 0))]
    spooled.release()
    assert not spooled.folder.exists()


def test_pages_from_a_start(spool):
    spooled = spool()
    for part in range(3):
        for number in range(part * 10, part * 10 + 10):
            spooled.append([frame(number)])
        spooled.roll()
    spooled.end()
    spooled.seal()
    pages = spooled.landing.pages("feed", 7)
    assert [(page.manifest.part, start) for page, start in frame_pages(pages, 15, warm=False)] == [(1, 15), (2, 15)]
    warm = [(page.manifest.part, start) for page, start in frame_pages(pages, 15, warm=True)]
    assert warm == [(0, 0), (1, 0), (2, 0)]
    assert list(frame_pages(pages, 30, warm=True)) == []


def test_what_a_dead_process_left_is_sealed_to_the_last_whole_frame(spool):
    spooled = spool(trades=7, quotes=8)
    for number in range(5):
        spooled.append([frame(number)])
    spooled.roll()
    spooled.seal()
    for number in range(5, 9):
        spooled.append([frame(number)])
    spooled.flush()
    path = spooled.segments[-1].path
    with path.open("ab") as file:
        file.write(encode([frame(9)])[:-3])
    assert list(left_behind(spooled.landing, "feed")) == []  # its writer lives
    spooled.abandon()
    ((note, pages),) = left_behind(spooled.landing, "feed")
    assert note.fetches == {"trades": 7, "quotes": 8}
    assert pages == {7: 2, 8: 2}
    landed = [one for page in spooled.landing.pages("feed", 8) for one in read(landed_groups(page, 0))]
    assert [one.content for one in landed] == [frame(number).content for number in range(9)]
    assert [one.number for one in landed] == list(range(9))
    assert not path.parent.exists()


def test_repeats_are_counted_from_the_last_part_that_holds_frames(spool):
    """Schemas that join one after the other leave a part of contexts alone."""
    spooled = spool()
    spooled.append([frame(0)])
    for schema, fetch in (("quotes", 8), ("bbo-1s", 9)):
        spooled.landing.begin("feed", fetch, {"asked": "live"})
        spooled.join(schema, fetch, [frame(1, context=True)])
    spooled.append([frame(2)])
    spooled.flush()
    assert [segment.frames for segment in spooled.segments] == [1, 0, 1]
    assert spooled.holding(1) == 2
    assert spooled.before(2) == 0


def test_a_stint_that_never_wrote_is_forgotten(spool):
    spooled = spool()
    spooled.abandon()
    ((_, pages),) = left_behind(spooled.landing, "feed")
    assert pages == {7: 0}


def test_a_full_disk_drops_what_was_taken_and_keeps_the_file_whole(spool, monkeypatch):
    spooled = spool()
    spooled.append([frame(0)])
    spooled.flush()

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, content):
            self.file.write(content[:5])
            raise OSError(28, "No space left on device")

        def __getattr__(self, name):
            return getattr(self.file, name)

    monkeypatch.setattr(spooled, "_file", Full(spooled._file))
    spooled.append([frame(1)])
    with pytest.raises(TransientError, match="disk full"):
        spooled.flush()
    spooled._file = spooled._file.file
    spooled.append([frame(2)])
    spooled.end()
    assert [one.content for one in read(spooled.read(0))] == [frame(0).content, frame(2).content]


@given(st.sets(st.integers(0, 12)), st.integers(0, 5), st.integers(6, 10))
def test_groups_are_cut_where_cursors_stand(cuts, first, end):
    group = Group(3, first, end, [Frame(b"", 0, True, first), *(Frame(b"", 0, False, n) for n in range(first, end))])
    pieces = list(split(group, cuts))
    assert pieces[0].first == first
    assert pieces[-1].end == end
    assert [one for piece in pieces for one in piece.frames] == list(group.frames)
    assert all(before.end == after.first for before, after in pairwise(pieces))
    assert {piece.first for piece in pieces} - {first} == {cut for cut in cuts if first < cut < end}
