"""Data structures of NVMe admin commands: what Identify and Get Log Page give.

Only built here, never read from a peer; fields that this target leaves at zero are ``reserved`` runs, named after what
the standard keeps there where that helps.

Source: NVM Express Base Specification 2.0, section 5.16 (log pages) and 5.17 (Identify); NVM Command Set Specification
1.0, section 4.1.5.
"""

from __future__ import annotations

from typing import Final

from sparrow.formats.layout import Field, Layout

NVME_IDENTIFY_BYTES: Final = 4096

NVME_ID_CTRL = Layout(
    "nvme_id_ctrl",
    order="le",
    size=4096,
    doc="Identify Controller, CNS 01h. Source: NVMe base 2.0, 5.17.2.1, figure 275.",
    fields=(
        Field("vid", "u16", "PCI vendor; 0, there is none"),
        Field("ssvid", "u16", "PCI subsystem vendor; 0"),
        Field("sn", "bytes20", "serial number, ASCII, padded with spaces"),
        Field("mn", "bytes40", "model number, ASCII, padded with spaces"),
        Field("fr", "bytes8", "firmware revision, ASCII, padded with spaces"),
        Field("rab", "u8", "recommended arbitration burst"),
        Field("ieee", "bytes3", "IEEE OUI; 0, there is none"),
        Field("cmic", "u8", "bit 0 several ports, bit 1 several controllers, bit 3 ANA reporting"),
        Field("mdts", "u8", "largest transfer, power of two of 4 KiB pages"),
        Field("cntlid", "u16", "controller"),
        Field("ver", "u32", "version, as property VS"),
        Field("rtd3", "reserved8", "runtime D3 latencies"),
        Field("oaes", "u32", "asynchronous events that can be enabled"),
        Field("ctratt", "u32", "controller attributes"),
        Field("rrls", "reserved11", "read recovery levels, and reserved bytes"),
        Field("cntrltype", "u8", "1 I/O controller, 2 discovery controller"),
        Field("fguid", "bytes16", "FRU; 0, there is none"),
        Field("crdt", "u16[3]", "command retry delays, 100 ms"),
        Field("hole1", "reserved122", "reserved, NVMe-MI"),
        Field("oacs", "u16", "optional admin commands"),
        Field("acl", "u8", "Abort commands at one time, minus one"),
        Field("aerl", "u8", "Asynchronous Event Requests at one time, minus one"),
        Field("frmw", "u8", "firmware slots; bit 0: slot 1 is read-only, bits 1 to 3: slots"),
        Field(
            "lpa",
            "u8",
            "log page attributes; bit 1: commands supported and effects, bit 2: extended data",
        ),
        Field("elpe", "u8", "error log entries, minus one"),
        Field("npss", "u8", "power states, minus one"),
        Field("avscc", "u8", "vendor specific commands"),
        Field("apsta", "u8", "autonomous power states"),
        Field("wctemp", "u16", "warning temperature, kelvin"),
        Field("cctemp", "u16", "critical temperature, kelvin"),
        Field("hole2", "reserved50", "not for a fabric"),
        Field("kas", "u16", "granularity of the keep alive timer, 100 ms; 0: none"),
        Field("hole3", "reserved20", "thermal management, sanitize, host memory buffer, sets"),
        Field("anatt", "u8", "seconds a transition of ANA states takes at most"),
        Field(
            "anacap", "u8", "bits 0 to 4: states that are reported; bit 6: ANAGRPID does not change"
        ),
        Field("anagrpmax", "u32", "largest ANA group identifier"),
        Field("nanagrpid", "u32", "ANA groups"),
        Field("hole4", "reserved160", "persistent events, domains, endurance groups"),
        Field("sqes", "u8", "submission queue entry size, powers of two: least in bits 0 to 3"),
        Field("cqes", "u8", "completion queue entry size"),
        Field("maxcmd", "u16", "commands at one time per queue"),
        Field("nn", "u32", "largest namespace identifier"),
        Field("oncs", "u16", "optional NVM commands"),
        Field("fuses", "u16", "bit 0: fused Compare and Write"),
        Field("fna", "u8", "format attributes"),
        Field(
            "vwc", "u8", "bit 0: volatile write cache; bits 1 and 2: 11b Flush takes NSID FFFFFFFFh"
        ),
        Field("awun", "u16", "atomic write unit, blocks, minus one"),
        Field("awupf", "u16", "atomic write unit at power fail, blocks, minus one"),
        Field("icsvscc", "u8", "vendor specific I/O commands"),
        Field("nwpc", "u8", "namespace write protection"),
        Field("acwu", "u16", "atomic compare and write unit, blocks, minus one"),
        Field("ocfs", "u16", "optional copy formats"),
        Field("sgls", "u32", "SGL support"),
        Field("mnan", "u32", "namespaces at most"),
        Field("hole5", "reserved224", "domains, and reserved bytes"),
        Field("subnqn", "bytes256", "name of the subsystem, NUL-terminated"),
        Field("hole6", "reserved768", "reserved"),
        Field("ioccsz", "u32", "I/O command capsule, 16 bytes"),
        Field("iorcsz", "u32", "I/O response capsule, 16 bytes"),
        Field("icdoff", "u16", "in-capsule data offset, 16 bytes"),
        Field("fcatt", "u8", "bit 0: static controllers"),
        Field("msdbd", "u8", "SGL descriptors in a capsule"),
        Field("ofcs", "u16", "bit 0: Disconnect"),
        Field("dctype", "u8", "discovery controller type"),
        Field("hole7", "reserved241", "reserved"),
        Field("psd", "bytes1024", "power state descriptors"),
        Field("hole8", "reserved1024", "vendor specific"),
    ),
)

NVME_ID_NS = Layout(
    "nvme_id_ns",
    order="le",
    size=4096,
    doc="Identify Namespace of the NVM command set, CNS 00h. Source: NVM command set 1.0, 4.1.5.1, figure 97.",
    fields=(
        Field("nsze", "u64", "size, blocks"),
        Field("ncap", "u64", "capacity, blocks"),
        Field("nuse", "u64", "blocks in use"),
        Field(
            "nsfeat",
            "u8",
            "bit 0 thin provisioning, bit 1 NAWUN and others are valid, bit 4 NPWG and others are",
        ),
        Field("nlbaf", "u8", "block formats, minus one"),
        Field("flbas", "u8", "the format in use"),
        Field("mc", "u8", "metadata; none"),
        Field("dpc", "u8", "protection information; none"),
        Field("dps", "u8", "protection information; none"),
        Field("nmic", "u8", "bit 0: several controllers may use it"),
        Field("rescap", "u8", "reservations: bit 0 PTPL, bits 1 to 6 types, bit 7 IEKEY"),
        Field("fpi", "u8", "format progress"),
        Field(
            "dlfeat",
            "u8",
            "bits 0 to 2: 001b, what was deallocated reads as zeros; bit 3: Write Zeroes may deallocate",
        ),
        Field("nawun", "u16", "atomic write unit, blocks, minus one"),
        Field("nawupf", "u16", "at power fail"),
        Field("nacwu", "u16", "atomic compare and write unit, blocks, minus one"),
        Field("boundaries", "reserved6", "atomic boundaries; none"),
        Field("noiob", "u16", "optimal I/O boundary; none"),
        Field("nvmcap", "bytes16", "size, bytes"),
        Field("npwg", "u16", "preferred write granularity, blocks, minus one"),
        Field("npwa", "u16", "preferred write alignment, blocks, minus one"),
        Field("npdg", "u16", "preferred deallocate granularity, blocks, minus one"),
        Field("npda", "u16", "preferred deallocate alignment, blocks, minus one"),
        Field("nows", "u16", "optimal write size, blocks, minus one"),
        Field("hole1", "reserved18", "copy limits, and reserved bytes"),
        Field("anagrpid", "u32", "ANA group"),
        Field("hole2", "reserved3", "reserved"),
        Field("nsattr", "u8", "bit 0: write protected"),
        Field("hole3", "reserved4", "sets, endurance groups"),
        Field("nguid", "bytes16", "globally unique identifier"),
        Field("eui64", "bytes8", "extended unique identifier; 0, none"),
        Field("lbaf0", "u32", "bits 0 to 15 metadata, bits 16 to 23 block size as a power of two"),
        Field("hole4", "reserved3964", "further formats, vendor specific"),
    ),
)

NVME_ID_NS_INDEPENDENT = Layout(
    "nvme_id_ns_independent",
    order="le",
    size=4096,
    doc="I/O command set independent Identify Namespace, CNS 08h. Source: NVMe base 2.0, 5.17.2.8.",
    fields=(
        Field("nsfeat", "u8", "common namespace features"),
        Field("nmic", "u8", "bit 0: several controllers may use it"),
        Field("rescap", "u8", "reservations: bit 0 PTPL, bits 1 to 6 types, bit 7 IEKEY"),
        Field("fpi", "u8", "format progress"),
        Field("anagrpid", "u32", "ANA group"),
        Field("nsattr", "u8", "bit 0: write protected"),
        Field("hole1", "reserved5", "sets, endurance groups"),
        Field("nstat", "u8", "bit 0: ready"),
        Field("hole2", "reserved4081", "reserved"),
    ),
)

NVME_ID_CTRL_NVM = Layout(
    "nvme_id_ctrl_nvm",
    order="le",
    size=4096,
    doc="Identify Controller of the NVM command set, CNS 06h. Source: NVM command set 1.0, 4.1.5.4.",
    fields=(
        Field("vsl", "u8", "Verify, largest, power of two of 4 KiB; 0: no limit"),
        Field("wzsl", "u8", "Write Zeroes, the same"),
        Field("wusl", "u8", "Write Uncorrectable, the same"),
        Field("dmrl", "u8", "ranges of one Dataset Management"),
        Field("dmrsl", "u32", "blocks of one of its ranges"),
        Field("dmsl", "u64", "blocks of all its ranges"),
        Field("hole1", "reserved4080", "reserved"),
    ),
)

NVME_LOG_SMART = Layout(
    "nvme_log_smart",
    order="le",
    size=512,
    doc="SMART / Health Information, log page 02h. Source: NVMe base 2.0, 5.16.1.3.",
    fields=(
        Field("critical_warning", "u8", "bit 0 spare, bit 2 reliability degraded, bit 3 read-only"),
        Field("temperature", "u16", "kelvin; 0, not measured"),
        Field("available_spare", "u8", "percent"),
        Field("spare_threshold", "u8", "percent"),
        Field("percentage_used", "u8", "percent"),
        Field("endurance_warning", "u8", "endurance groups"),
        Field("hole1", "reserved25", "reserved"),
        Field("data_units_read", "bytes16", "thousands of 512 bytes"),
        Field("data_units_written", "bytes16", "thousands of 512 bytes"),
        Field("host_reads", "bytes16", "commands"),
        Field("host_writes", "bytes16", "commands"),
        Field("busy_minutes", "bytes16", "minutes"),
        Field("power_cycles", "bytes16", "count"),
        Field("power_on_hours", "bytes16", "hours"),
        Field("unsafe_shutdowns", "bytes16", "count"),
        Field("media_errors", "bytes16", "count"),
        Field("error_entries", "bytes16", "count"),
        Field("hole2", "reserved320", "temperatures, and reserved bytes"),
    ),
)

NVME_LOG_FIRMWARE = Layout(
    "nvme_log_firmware",
    order="le",
    size=512,
    doc="Firmware Slot Information, log page 03h. Source: NVMe base 2.0, 5.16.1.4.",
    fields=(
        Field("afi", "u8", "bits 0 to 2: the slot in use"),
        Field("hole1", "reserved7", "reserved"),
        Field("frs1", "bytes8", "revision in slot 1"),
        Field("hole2", "reserved496", "other slots, and reserved bytes"),
    ),
)

NVME_LOG_ANA_HEADER = Layout(
    "nvme_log_ana_header",
    order="le",
    size=16,
    doc="Asymmetric Namespace Access, log page 0Ch: header. Source: NVMe base 2.0, 5.16.1.13.",
    fields=(
        Field("chgcnt", "u64", "changes of the log"),
        Field("ngrps", "u16", "groups that follow"),
        Field("hole1", "reserved6", "reserved"),
    ),
)

NVME_LOG_ANA_GROUP = Layout(
    "nvme_log_ana_group",
    order="le",
    size=32,
    doc="One group of it; namespace identifiers follow, 4 bytes each.",
    fields=(
        Field("grpid", "u32", "ANA group"),
        Field("nnsids", "u32", "namespace identifiers that follow"),
        Field("chgcnt", "u64", "changes of the group"),
        Field(
            "state",
            "u8",
            "1 optimized, 2 non-optimized, 3 inaccessible, 4 persistent loss, 15 change",
        ),
        Field("hole1", "reserved15", "reserved"),
    ),
)

NVME_LOG_RESERVATION = Layout(
    "nvme_log_reservation",
    order="le",
    size=64,
    doc="Reservation Notification, log page 80h. Source: NVMe base 2.0, 5.16.1.22.",
    fields=(
        Field("lpcnt", "u64", "notifications since the controller began, this one included"),
        Field("type", "u8", "0 none, 1 registration preempted, 2 released, 3 preempted"),
        Field("nalp", "u8", "notifications that wait behind this one"),
        Field("hole1", "reserved2", "reserved"),
        Field("nsid", "u32", "namespace"),
        Field("hole2", "reserved48", "reserved"),
    ),
)

NVME_LOG_DISCOVERY_HEADER = Layout(
    "nvme_log_discovery_header",
    order="le",
    size=1024,
    doc="Discovery, log page 70h: header. Source: NVMe base 2.0, 5.16.1.23.",
    fields=(
        Field("genctr", "u64", "changes of the log"),
        Field("numrec", "u64", "entries that follow"),
        Field("recfmt", "u16", "record format; 0"),
        Field("hole1", "reserved1006", "reserved"),
    ),
)

NVME_LOG_DISCOVERY_ENTRY = Layout(
    "nvme_log_discovery_entry",
    order="le",
    size=1024,
    doc="One entry of it.",
    fields=(
        Field("trtype", "u8", "transport: 3 is TCP"),
        Field("adrfam", "u8", "1 IPv4, 2 IPv6"),
        Field("subtype", "u8", "2 NVM subsystem, 3 this discovery subsystem"),
        Field("treq", "u8", "transport requirements; bit 2: flow control can be disabled"),
        Field("portid", "u16", "port of the subsystem"),
        Field("cntlid", "u16", "0xFFFF: dynamic controllers"),
        Field("asqsz", "u16", "largest admin queue"),
        Field("eflags", "u16", "bit 1: explicit persistent connections"),
        Field("hole1", "reserved20", "reserved"),
        Field("trsvcid", "bytes32", "TCP port, ASCII, padded with spaces"),
        Field("hole2", "reserved192", "reserved"),
        Field("subnqn", "bytes256", "name of the subsystem, NUL-terminated"),
        Field("traddr", "bytes256", "address, ASCII, padded with spaces"),
        Field("sectype", "u8", "TCP: 0, no transport security"),
        Field("hole3", "reserved255", "reserved"),
    ),
)
