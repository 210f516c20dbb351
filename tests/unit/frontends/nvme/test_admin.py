"""The admin queue of a controller: properties, Identify, log pages, features, events, keep alive."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from sparrow.base.ids import VolumeId
from sparrow.formats import nvme
from sparrow.formats import nvme_admin as layouts
from sparrow.frontends.nvme.admin import (
    Completion,
    Controller,
    DiscoveryController,
    DiscoveryView,
    VolumeController,
    VolumeView,
)
from sparrow.frontends.nvme.connect import ConnectRequest
from sparrow.frontends.nvme.connection import Command
from sparrow.frontends.nvme.events import AsyncEvent
from sparrow.frontends.nvme.logs import DiscoveryEntry
from sparrow.frontends.nvme.naming import DISCOVERY_NQN
from sparrow.frontends.nvme.subsystem import AnaState, Counters, Subsystem
from sparrow.frontends.reservations.machine import Notice
from tests.support.nvme_machine import admin_entry, property_entry

DNR = 0x4000
OPCODE, FIELD, NAMESPACE, SEQUENCE, SGL_LENGTH, ABORTED = 0x01, 0x02, 0x0B, 0x0C, 0x0F, 0x07
EVENT_LIMIT, LOG_PAGE, NOT_SAVEABLE, QUEUE_TYPE = 0x105, 0x109, 0x10D, 0x185
ENABLE = 1 | 6 << 16 | 4 << 20
CONNECT = ConnectRequest(
    qid=0,
    entries=32,
    flow_control=True,
    kato_ms=5000,
    host_id=bytes(range(16)),
    host_nqn="nqn.2024-01.x:host",
    subsystem_nqn="nqn.2024-01.x:y",
    cntlid=0xFFFF,
)
VIEW = VolumeView(
    subsystem=Subsystem(
        volume_id=VolumeId("vol"), cluster_id="c", size_bytes=1 << 30, ana_group=2, ana_groups_max=8
    ),
    counters=Counters(reads=3, writes=4, read_bytes=512_001, written_bytes=1),
    ana_changes=7,
)


class Driver:
    """Gives commands to a controller and takes its answers."""

    def __init__(self, controller: Controller[object], view: object) -> None:
        self.controller = controller
        self.view = view
        self.now = 0.0
        self._cid = 0

    @property
    def cid(self) -> int:
        """Of the newest command."""
        return self._cid

    def raw(self, entry: bytes) -> tuple[Completion, ...]:
        command = Command(entry, nvme.NVME_SQE.unpack(entry), b"")
        return self.controller.execute(command, self.view, self.now)

    def send(self, opcode: int, **fields: int) -> Completion:
        self._cid += 1
        (done,) = self.raw(admin_entry(opcode, self._cid, **fields))
        assert done.cid == self._cid
        return done

    def property(
        self, fctype: int, offset: int, *, eight: bool = False, value: int = 0
    ) -> Completion:
        self._cid += 1
        (done,) = self.raw(property_entry(self._cid, fctype, offset, eight=eight, value=value))
        return done

    def identify(self, cns: int, **fields: int) -> Completion:
        return self.send(0x06, cdw10=cns, length=4096, **fields)

    def log(self, page: int, length: int, *, flags: int = 0, offset: int = 0) -> Completion:
        cdw10 = page | flags | (length // 4 - 1) << 16
        return self.send(0x02, cdw10=cdw10, cdw12=offset, length=length)


@pytest.fixture
def driver() -> Driver:
    controller = VolumeController(cntlid=0x2001, connect=CONNECT, now=0.0)
    driver = Driver(controller, VIEW)  # type: ignore[arg-type]
    driver.property(0, 0x14, value=ENABLE)
    return driver


def test_a_controller_is_ready_once_it_is_enabled() -> None:
    driver = Driver(VolumeController(cntlid=1, connect=CONNECT, now=0.0), VIEW)  # type: ignore[arg-type]
    cap = driver.property(4, 0, eight=True).result
    assert (cap & 0xFFFF, cap >> 16 & 1, cap >> 37 & 1) == (127, 1, 1)
    assert driver.property(4, 8).result == 0x20000
    assert driver.property(4, 0x1C).result == 0
    assert driver.identify(1).status == SEQUENCE | DNR
    assert driver.property(0, 0x14, value=ENABLE).status == 0
    assert driver.property(4, 0x1C).result == 1
    assert driver.property(4, 0x14).result == ENABLE
    assert driver.identify(1).status == 0
    driver.property(0, 0x14, value=ENABLE | 1 << 14)
    assert driver.property(4, 0x1C).result == 1 | 2 << 2
    driver.property(0, 0x14, value=0)
    assert driver.property(4, 0x1C).result == 0
    assert driver.controller.resets == 1


@pytest.mark.parametrize("cc", [1, ENABLE | 1 << 4, ENABLE | 1 << 7, ENABLE | 1 << 11])
def test_a_configuration_that_cannot_be_is_fatal_until_a_reset(cc: int) -> None:
    driver = Driver(VolumeController(cntlid=1, connect=CONNECT, now=0.0), VIEW)  # type: ignore[arg-type]
    driver.property(0, 0x14, value=cc)
    assert driver.property(4, 0x1C).result == 2
    driver.property(0, 0x14, value=0)
    driver.property(0, 0x14, value=ENABLE)
    assert driver.property(4, 0x1C).result == 1


def test_properties_that_do_not_exist_are_refused(driver: Driver) -> None:
    assert driver.property(4, 0x100).status == FIELD | DNR
    assert driver.property(4, 0).status == FIELD | DNR
    assert driver.property(4, 0x1C, eight=True).status == FIELD | DNR
    assert driver.property(0, 0x1C, value=1).status == FIELD | DNR
    assert driver.property(1, 0).status == SEQUENCE | DNR
    assert driver.property(8, 0).status == QUEUE_TYPE | DNR
    assert driver.property(5, 0).status == OPCODE | DNR


def test_identify_tells_the_truth(driver: Driver) -> None:
    controller = layouts.NVME_ID_CTRL.unpack(driver.identify(1).data)
    assert controller.number("cntlid") == 0x2001
    assert controller.number("mdts") == 7
    assert controller.number("vwc") & 1 == 0, "no volatile write cache"
    assert controller.number("oncs") == 0xAD
    assert controller.number("fuses") == 1
    assert controller.number("awupf") == 1023
    assert controller.number("ioccsz") * 16 == 64 + 8192
    assert controller.number("sgls") & 3
    namespace = layouts.NVME_ID_NS.unpack(driver.identify(0, nsid=1).data)
    assert namespace.number("nsze") == (1 << 30) // 512
    assert namespace.number("lbaf0") >> 16 == 9
    assert namespace.number("anagrpid") == 2
    assert namespace.number("nacwu") == 7
    assert namespace.number("rescap") == 0xFF, "every type, and they persist"
    assert namespace.blob("nguid") == VIEW.subsystem.identity.nguid
    independent = layouts.NVME_ID_NS_INDEPENDENT.unpack(driver.identify(8, nsid=1).data)
    assert (independent.number("anagrpid"), independent.number("nstat")) == (2, 1)
    limits = layouts.NVME_ID_CTRL_NVM.unpack(driver.identify(6).data)
    assert limits.number("dmrl") == 255
    assert struct.unpack_from("<2I", driver.identify(2).data) == (1, 0)
    assert struct.unpack_from("<I", driver.identify(2, nsid=1).data) == (0,)
    assert struct.unpack_from("<2I", driver.identify(7).data) == (1, 0)
    assert struct.unpack_from("<Q", driver.identify(0x1C).data) == (1,)
    assert driver.identify(5, nsid=1).data == bytes(4096)


def test_descriptors_name_the_volume_wherever_it_is_served(driver: Driver) -> None:
    data, at, found = driver.identify(3, nsid=1).data, 0, {}
    while data[at + 1]:
        found[data[at]] = data[at + 4 : at + 4 + data[at + 1]]
        at += 4 + data[at + 1]
    own = VIEW.subsystem.identity
    assert found == {2: own.nguid, 3: own.uuid, 4: b"\0"}
    assert own.uuid[6] >> 4 == 8
    other = Subsystem(volume_id=VolumeId("vol"), cluster_id="c", size_bytes=4096, ana_group=1)
    assert other.identity == own
    elsewhere = Subsystem(volume_id=VolumeId("vol"), cluster_id="d", size_bytes=4096)
    assert elsewhere.identity != own


def test_identify_of_what_is_not_there_is_refused(driver: Driver) -> None:
    for cns in (0, 3, 5, 8):
        assert driver.identify(cns, nsid=2).status == NAMESPACE | DNR
        assert driver.identify(cns, nsid=0xFFFFFFFF).status == NAMESPACE | DNR
    assert driver.identify(2, nsid=0xFFFFFFFE).status == NAMESPACE | DNR
    assert driver.identify(6, cdw11=2 << 24).status == FIELD | DNR
    assert driver.identify(0x40).status == FIELD | DNR
    assert driver.send(0x06, cdw10=1, length=512).status == SGL_LENGTH | DNR
    assert driver.send(0xC0).status == OPCODE | DNR


def test_log_pages(driver: Driver) -> None:
    smart = layouts.NVME_LOG_SMART.unpack(driver.log(2, 512).data)
    assert int.from_bytes(smart.blob("data_units_read"), "little") == 2
    assert int.from_bytes(smart.blob("host_writes"), "little") == 4
    assert driver.log(1, 64).data == bytes(64)
    assert layouts.NVME_LOG_FIRMWARE.unpack(driver.log(3, 512).data).number("afi") == 1
    effects = struct.unpack("<512I2048x", driver.log(5, 4096).data)
    assert [i for i in range(256) if effects[256 + i]] == [
        0, 1, 2, 5, 8, 9, 12, 13, 14, 17, 21, 127,
    ]  # fmt: skip
    assert effects[256 + 1] == 3
    ana = driver.log(0x0C, 64).data
    assert struct.unpack_from("<QH", ana) == (7, 1)
    assert struct.unpack_from("<IIQB", ana, 16) == (2, 1, 7, AnaState.OPTIMIZED)
    assert struct.unpack_from("<I", ana, 48) == (1,)
    groups = driver.log(0x0C, 64, flags=1 << 8).data
    assert struct.unpack_from("<IIQB", groups, 16) == (2, 0, 7, 1)
    assert driver.log(2, 8, offset=64).data == driver.log(2, 512).data[64:72]
    assert driver.log(0x70, 64).status == LOG_PAGE | DNR
    assert driver.log(0x42, 64).status == LOG_PAGE | DNR
    assert driver.log(2, 8, offset=2).status == FIELD | DNR
    assert driver.log(2, 8, offset=516).status == FIELD | DNR
    assert (
        driver.send(0x02, cdw10=2 | 0xFFFF << 16, cdw11=0xFF, length=1 << 26).status == FIELD | DNR
    )


def test_features(driver: Driver) -> None:
    assert driver.send(0x09, cdw10=7, cdw11=3 | 2 << 16).result == 2 | 2 << 16
    assert driver.send(0x0A, cdw10=7).result == 2 | 2 << 16
    assert driver.send(0x09, cdw10=7, cdw11=99 | 99 << 16).result == 7 | 7 << 16
    assert driver.send(0x09, cdw10=7, cdw11=0xFFFF).status == FIELD | DNR
    assert driver.send(0x09, cdw10=0x0F, cdw11=8000).status == 0
    assert driver.send(0x0A, cdw10=0x0F).result == 8000
    assert driver.send(0x0A, cdw10=0x81, cdw11=1, length=16).data == bytes(range(16))
    assert driver.send(0x0A, cdw10=0x81, length=8).status == FIELD | DNR
    assert driver.send(0x09, cdw10=0x81, cdw11=1).status == SEQUENCE | DNR
    assert driver.send(0x09, cdw10=1, cdw11=5).status == 0
    assert driver.send(0x0A, cdw10=1).result == 5
    assert driver.send(0x09, cdw10=2, cdw11=1).status == FIELD | DNR
    assert driver.send(0x09, cdw10=1 | 1 << 31).status == NOT_SAVEABLE | DNR
    assert driver.send(0x0A, cdw10=1 | 1 << 8).status == FIELD | DNR
    for absent in (0x06, 0x84, 0x0C):
        assert driver.send(0x0A, cdw10=absent).status == FIELD | DNR
        assert driver.send(0x09, cdw10=absent).status == FIELD | DNR
    driver.property(0, 0x14, value=0)
    driver.property(0, 0x14, value=ENABLE)
    assert driver.send(0x0A, cdw10=0x0F).result == 5000, "a reset brings everything back"


def test_an_event_is_told_once_until_its_log_was_read(driver: Driver) -> None:
    controller = driver.controller
    assert controller.happened(AsyncEvent.ANA_CHANGED) == (), "not enabled"
    driver.send(0x09, cdw10=0x0B, cdw11=1 << 11 | 1 << 8)
    for cid in (50, 51):
        assert driver.raw(admin_entry(0x0C, cid)) == ()
    assert controller.happened(AsyncEvent.ANA_CHANGED) == (Completion(50, 0, 0x0C0302),)
    assert controller.happened(AsyncEvent.ANA_CHANGED) == ()
    driver.log(0x0C, 64, flags=0x8000)
    assert controller.happened(AsyncEvent.ANA_CHANGED) == (), "RAE keeps it masked"
    driver.log(0x0C, 64)
    assert controller.happened(AsyncEvent.ANA_CHANGED) == (Completion(51, 0, 0x0C0302),)
    assert controller.happened(AsyncEvent.NAMESPACE_CHANGED) == ()
    assert driver.raw(admin_entry(0x0C, 52)) == (Completion(52, 0, 0x040002),)
    assert struct.unpack_from("<2I", driver.log(4, 4096).data) == (1, 0)
    assert struct.unpack_from("<I", driver.log(4, 4096).data) == (0,)


def test_event_requests_are_bounded_and_can_be_taken_back(driver: Driver) -> None:
    for cid in range(100, 104):
        assert driver.raw(admin_entry(0x0C, cid)) == ()
    assert driver.send(0x0C).status == EVENT_LIMIT | DNR
    done = driver.raw(admin_entry(0x08, 200, cdw10=102 << 16))
    assert done == (Completion(102, ABORTED), Completion(200))
    assert driver.send(0x08, cdw10=102 << 16).result == 1
    assert driver.send(0x08, cdw10=1 | 7 << 16).result == 1, "the core did not take it back"
    assert driver.send(0x09, cdw10=0x0B, cdw11=1 << 31).status == FIELD | DNR
    driver.view = replace(VIEW, aborted=True)
    assert driver.send(0x08, cdw10=1 | 7 << 16) == Completion(driver.cid), "the core took it back"
    assert driver.send(0x08, cdw10=7 << 16).result == 1, "no queue of the core's"


def test_silence_longer_than_the_keep_alive_timeout_ends_it(driver: Driver) -> None:
    assert driver.controller.expires() == 5.0
    driver.now = 4.0
    assert driver.send(0x18).status == 0
    assert driver.controller.expires() == 9.0
    driver.send(0x09, cdw10=0x0F, cdw11=0)
    assert driver.controller.expires() is None


def test_a_discovery_controller_tells_where_subsystems_are() -> None:
    view = DiscoveryView(
        entries=(
            DiscoveryEntry(nqn=DISCOVERY_NQN, host="10.0.0.1", port=4420, port_id=1),
            DiscoveryEntry(nqn="nqn.2024-01.x:y", host="fd00::1", port=4421, port_id=1),
        ),
        generation=3,
    )
    driver = Driver(DiscoveryController(cntlid=1, connect=CONNECT, now=0.0), view)  # type: ignore[arg-type]
    driver.property(0, 0x14, value=1)
    assert driver.property(4, 0x1C).result == 1, (
        "it has no I/O queues: their entry sizes do not matter"
    )
    controller = layouts.NVME_ID_CTRL.unpack(driver.identify(1).data)
    assert (controller.number("cntrltype"), controller.number("nn")) == (2, 0)
    assert controller.blob("subnqn").rstrip(b"\0").decode() == DISCOVERY_NQN
    log = driver.log(0x70, 3072).data
    assert struct.unpack_from("<QQH", log) == (3, 2, 0)
    entry = layouts.NVME_LOG_DISCOVERY_ENTRY.unpack(log, offset=2048)
    assert (entry.number("trtype"), entry.number("adrfam"), entry.number("subtype")) == (3, 2, 2)
    assert entry.blob("traddr").strip() == b"fd00::1"
    assert entry.blob("trsvcid").strip() == b"4421"
    assert driver.log(0x0C, 64).status == LOG_PAGE | DNR
    assert driver.send(0x09, cdw10=7, cdw11=0).status == FIELD | DNR
    driver.send(0x09, cdw10=0x0B, cdw11=1 << 31)
    assert driver.raw(admin_entry(0x0C, 9)) == ()
    assert driver.controller.happened(AsyncEvent.DISCOVERY_CHANGED) == (Completion(9, 0, 0x70F002),)


def test_a_silent_discovery_controller_is_not_kept_for_ever() -> None:
    connect = ConnectRequest(
        qid=0, entries=32, flow_control=True, kato_ms=0, host_id=bytes(16),
        host_nqn="nqn.2024-01.x:h", subsystem_nqn=DISCOVERY_NQN, cntlid=0xFFFF,
    )  # fmt: skip
    assert DiscoveryController(cntlid=1, connect=connect, now=5.0).expires() == 125.0


# reservations


def notify(driver: Driver, notice: Notice) -> tuple[Completion, ...]:
    assert isinstance(driver.controller, VolumeController)
    if not driver.controller.notified(notice):
        return ()
    return driver.controller.happened(AsyncEvent.RESERVATION_NOTICE)


def notice_log(driver: Driver) -> tuple[int, int, int, int]:
    row = layouts.NVME_LOG_RESERVATION.unpack(driver.log(0x80, 64).data)
    return row.number("lpcnt"), row.number("type"), row.number("nalp"), row.number("nsid")


def test_reservation_notices_come_one_after_the_other(driver: Driver) -> None:
    assert notice_log(driver) == (0, 0, 0, 0)
    assert driver.raw(admin_entry(0x0C, 90)) == ()
    (event,) = notify(driver, Notice.REGISTRATIONS_PREEMPTED)
    assert (event.cid, event.result) == (90, 0x800006)
    assert driver.raw(admin_entry(0x0C, 91)) == ()
    assert notify(driver, Notice.RESERVATIONS_RELEASED) == ()
    row, event = driver.raw(admin_entry(0x02, 5, cdw10=0x80 | 15 << 16, length=64))
    assert layouts.NVME_LOG_RESERVATION.unpack(row.data).number("nalp") == 1
    assert (event.cid, event.result) == (91, 0x800006)
    assert notice_log(driver) == (2, 2, 0, 1)
    assert notice_log(driver) == (2, 0, 0, 0)


def test_reservation_notices_that_nobody_reads_are_bounded(driver: Driver) -> None:
    for _ in range(100):
        notify(driver, Notice.RESERVATIONS_PREEMPTED)
    assert notice_log(driver) == (37, 3, 63, 1)


@pytest.mark.parametrize(
    ("bit", "notice"),
    [
        (1, Notice.REGISTRATIONS_PREEMPTED),
        (2, Notice.RESERVATIONS_RELEASED),
        (3, Notice.RESERVATIONS_PREEMPTED),
    ],
)
def test_a_masked_notice_is_not_told(driver: Driver, bit: int, notice: Notice) -> None:
    assert driver.send(0x09, cdw10=0x82, cdw11=1 << bit, nsid=1).status == 0
    assert driver.send(0x0A, cdw10=0x82, nsid=1).result == 1 << bit
    assert isinstance(driver.controller, VolumeController)
    assert not driver.controller.notified(notice)
    assert sum(driver.controller.notified(one) for one in Notice) == 2
    assert notice_log(driver)[2] == 1


def test_features_of_reservations_are_of_the_namespace(driver: Driver) -> None:
    assert driver.send(0x09, cdw10=0x82, cdw11=1, nsid=1).status == FIELD | DNR
    assert driver.send(0x09, cdw10=0x82, cdw11=2, nsid=2).status == NAMESPACE | DNR
    assert driver.send(0x09, cdw10=0x82, cdw11=2, nsid=0xFFFFFFFF).status == 0
    assert driver.send(0x0A, cdw10=0x82, nsid=0xFFFFFFFF).status == NAMESPACE | DNR
    assert driver.send(0x0A, cdw10=0x83, nsid=1).result == 0
    driver.view = replace(VIEW, persistent=True)
    assert driver.send(0x0A, cdw10=0x83, nsid=1).result == 1
    assert driver.send(0x09, cdw10=0x83, cdw11=1, nsid=1).status == 0x10E | DNR


def test_discovery_knows_no_reservations() -> None:
    driver = Driver(
        DiscoveryController(cntlid=1, connect=CONNECT, now=0.0),  # type: ignore[arg-type]
        DiscoveryView(entries=(), generation=1),
    )
    driver.property(0, 0x14, value=ENABLE)
    assert driver.send(0x0A, cdw10=0x82, nsid=1).status == FIELD | DNR
    assert driver.send(0x02, cdw10=0x80 | 15 << 16, length=64).status == LOG_PAGE | DNR
