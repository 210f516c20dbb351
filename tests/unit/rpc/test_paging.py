"""Lists in pages, over a real socket: every entry once, no page too large, the event loop never held up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio

from sparrow.base.errors import InvalidArgument, RemoteProtocolError
from sparrow.base.ids import VolumeId
from sparrow.rpc import methods
from sparrow.rpc.api_client import ApiClient
from sparrow.rpc.client import Channel
from sparrow.rpc.messages import ListVolumesRequest, VolumeList, VolumeView
from sparrow.rpc.paging import PAGE_BYTES_MAX, PAGE_SIZE, PAGE_SIZE_MAX, Walk, paged
from sparrow.rpc.server import Call, Server, unary
from tests.support.fake_master import volume_view
from tests.support.waiting import WAIT_S

#: What a gRPC client takes that was told nothing else.
CLIENT_BYTES_MAX = 4 << 20


class Shelf:
    """Volumes by name, given in pages; ``holes`` are keys with nothing to show."""

    def __init__(self) -> None:
        self.volumes: dict[str, VolumeView] = {}
        self.holes: set[str] = set()
        self.slow_s = 0.0

    def put(self, *names: str, cause: str = "") -> None:
        for name in names:
            self.volumes[name] = replace(volume_view(name), cause=cause)

    async def walk(self, _request: ListVolumesRequest, after: str) -> Walk[VolumeList]:
        return Walk(VolumeList(volumes=()), self._entries(after))

    def _entries(self, after: str) -> Iterator[tuple[str, VolumeList | None]]:
        for name in sorted({*self.volumes, *self.holes}):
            if name > after:
                view = self.volumes.get(name)
                yield name, None if view is None else VolumeList(volumes=(view,))


class Bed:
    async def start(self) -> None:
        self.shelf = Shelf()
        self.server = Server([paged(methods.LIST_VOLUMES, self.shelf.walk)])
        self.address = await self.server.start("127.0.0.1:0")
        self.channel = Channel(self.address, who="the master")
        self.api = ApiClient(self.address)

    async def stop(self) -> None:
        await self.api.close()
        await self.channel.close()
        await self.server.stop(grace_s=0)

    async def page(self, size: int = 0, token: str = "") -> VolumeList:
        request = ListVolumesRequest(page_size=size, page_token=token)
        return await self.channel.call(methods.LIST_VOLUMES, request, timeout_s=WAIT_S)


@pytest_asyncio.fixture
async def bed() -> AsyncGenerator[Bed]:
    made = Bed()
    await made.start()
    yield made
    await made.stop()


def names(page: VolumeList) -> list[str]:
    return [one.name for one in page.volumes]


async def test_pages_follow_each_other_and_the_last_one_says_so(bed: Bed) -> None:
    bed.shelf.put(*"abcde")
    first = await bed.page(2)
    second = await bed.page(2, first.next_page_token)
    third = await bed.page(2, second.next_page_token)
    assert [names(one) for one in (first, second, third)] == [["a", "b"], ["c", "d"], ["e"]]
    assert [bool(one.next_page_token) for one in (first, second, third)] == [True, True, False]
    assert (await bed.page(5)).next_page_token == "", "nothing follows a page that just holds all"
    assert names(await bed.page(2, first.next_page_token)) == ["c", "d"], "asked for once more"
    assert names(await bed.page(1, first.next_page_token)) == ["c"], "the size may change"


async def test_a_list_of_nothing_is_one_page(bed: Bed) -> None:
    assert await bed.page() == VolumeList(volumes=())
    bed.shelf.holes |= set("abc")
    assert await bed.page(1) == VolumeList(volumes=())
    assert await bed.api.list_volumes() == ()


async def test_what_comes_and_goes_between_pages_moves_nothing_else(bed: Bed) -> None:
    bed.shelf.put(*"cdefgh")
    first = await bed.page(3)
    assert names(first) == ["c", "d", "e"]
    del bed.shelf.volumes["e"], bed.shelf.volumes["g"]
    bed.shelf.holes.add("g")
    bed.shelf.put("a", "dd", "ff")
    second = await bed.page(3, first.next_page_token)
    assert names(second) == ["f", "ff", "h"]
    assert second.next_page_token == ""


async def test_a_page_has_as_many_as_asked_for_within_bounds(bed: Bed) -> None:
    bed.shelf.put(*(f"v{number:04d}" for number in range(PAGE_SIZE_MAX + 5)))
    assert len((await bed.page()).volumes) == PAGE_SIZE
    assert len((await bed.page(PAGE_SIZE_MAX + 1)).volumes) == PAGE_SIZE_MAX
    assert len((await bed.page((1 << 32) - 1)).volumes) == PAGE_SIZE_MAX


async def test_large_entries_make_short_pages_that_every_client_takes(bed: Bed) -> None:
    """Each entry is half a mebibyte, one of them larger than a page may be."""
    bed.shelf.put(*"abcdefghij", cause="x" * (1 << 19))
    bed.shelf.put("e", cause="x" * (PAGE_BYTES_MAX + 1))
    async with grpc.aio.insecure_channel(bed.address) as plain:
        call: Any = plain.unary_unary(methods.LIST_VOLUMES.path)
        found, request = list[list[str]](), ListVolumesRequest(page_size=PAGE_SIZE_MAX)
        while True:
            data = await call(methods.LIST_VOLUMES.request.encode(request), timeout=WAIT_S)
            assert len(data) < CLIENT_BYTES_MAX
            page = methods.LIST_VOLUMES.answer.decode(data)
            found.append(names(page))
            if not page.next_page_token:
                break
            request = replace(request, page_token=page.next_page_token)
    assert found == [["a", "b", "c"], ["d"], ["e"], ["f", "g", "h"], ["i", "j"]]
    assert [one.name for one in await bed.api.list_volumes()] == list("abcdefghij")


async def test_a_token_is_good_for_its_own_call_only(bed: Bed) -> None:
    bed.shelf.put(*"abc")
    token = (await bed.page(1)).next_page_token
    for bad in (token[:-4], token + "AAAA", token.lower(), "x" * 5000):
        with pytest.raises(InvalidArgument, match="page_token is"):
            await bed.page(1, bad)


async def test_a_long_page_lets_others_run(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step takes longer than a turn, so between each two of them the loop goes round."""
    monkeypatch.setattr("sparrow.rpc.turns.TURN_S", 0.0)
    bed.shelf.put(*(f"v{number:03d}" for number in range(100)))
    bed.shelf.holes |= {f"w{number:03d}" for number in range(100)}
    asked = asyncio.create_task(bed.page(100))
    rounds = 0
    while not asked.done():
        await asyncio.sleep(0)
        rounds += 1
    assert len((await asked).volumes) == 100
    assert rounds >= 200


async def test_a_server_that_goes_in_a_circle_is_left() -> None:
    async def again(request: ListVolumesRequest, _call: Call) -> VolumeList:
        return VolumeList(
            volumes=(volume_view(VolumeId("a")),), next_page_token=request.page_token or "x"
        )

    server = Server([unary(methods.LIST_VOLUMES, again)])
    async with ApiClient(await server.start("127.0.0.1:0")) as api:
        with pytest.raises(RemoteProtocolError, match="followed by itself"):
            await api.list_volumes()
    await server.stop(grace_s=0)
