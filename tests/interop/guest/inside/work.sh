# A mounted file system under work while the driver strikes: what every multipath device must bear.
# shellcheck shell=bash

# Random writes to a file, read back and compared, until told to stop.
checked_writes() {
    local pass=0
    while [ ! -e /tmp/stop ]; do
        fio --name=verify --filename=/mnt/checked --size=8m --rw=randwrite --bs=4k --iodepth=4 --ioengine=libaio \
            --direct=1 --rate_iops=150 --verify=crc32c --do_verify=1 --verify_fatal=1 --output=/out/fio.txt || return 1
        pass=$((pass + 1))
    done
    say "fio: $pass passes, all verified"
}

# One row for each commit, each made sure of by SQLite; the time of each, by this machine's clock, goes to memory.
database() {
    local number=0 got
    coproc DB { stdbuf -oL sqlite3 -batch -bail /mnt/database 2>/out/sqlite.err; }
    echo "pragma synchronous=full; create table kept(number integer primary key, filling blob); select 0;" >&"${DB[1]}"
    read -r got <&"${DB[0]}" || return 1
    while [ ! -e /tmp/stop ]; do
        number=$((number + 1))
        echo "insert into kept values($number, randomblob(200)); select $number;" >&"${DB[1]}"
        read -r got <&"${DB[0]}" && [ "$got" = "$number" ] || return 1
        echo "$number $EPOCHREALTIME" >>/out/commits
    done
    echo .quit >&"${DB[1]}"
}

commits() {
    wc -l </out/commits
}

more_commits_than() {
    [ "$(commits)" -gt "$1" ]
}

# under_work DISK STRIKES COMMAND: COMMAND succeeds when all paths are back
under_work() {
    local disk=$1 strikes=$2 paths=$3 number rows
    mkfs.ext4 -q -F "$disk" && mount -o errors=remount-ro "$disk" /mnt || fail "mkfs.ext4, mount"
    : >/out/commits
    : >/out/strikes
    checked_writes &
    local writer=$!
    database &
    local keeper=$!
    until_ok 60 more_commits_than 20
    for number in $(seq "$strikes"); do
        echo "$EPOCHREALTIME" >>/out/strikes
        say "strike $number: $(ask strike)"
        until_ok 60 more_commits_than $(($(commits) + 5))
        ask mend
        until_ok 60 "$paths"
        until_ok 60 more_commits_than $(($(commits) + 10))
        kill -0 $writer 2>/dev/null || fail "fio ended: $(tail -n 5 /out/fio.txt)"
        kill -0 $keeper 2>/dev/null || fail "sqlite ended: $(cat /out/sqlite.err)"
    done
    touch /tmp/stop
    wait $writer || fail "fio: $(tail -n 5 /out/fio.txt)"
    wait $keeper || fail "sqlite: $(cat /out/sqlite.err)"
    grep -q ' /mnt ext4 rw' /proc/mounts || fail "the file system is read only"
    dmesg | grep -E 'EXT4-fs (error|warning)|Remounting|I/O error.*(dm-|nvme[0-9]+n)|lost async page write|Aborting journal' &&
        fail "the kernel complains of the file system's disk"
    umount /mnt || fail "umount"
    e2fsck -fn "$disk" >/out/fsck 2>&1 || fail "fsck: $(tail -n 3 /out/fsck)"
    mount -o ro "$disk" /mnt || fail "mount"
    [ "$(sqlite3 "file:/mnt/database?immutable=1" 'pragma integrity_check')" = ok ] || fail "the database is damaged"
    rows=$(sqlite3 "file:/mnt/database?immutable=1" 'select count(*) from kept')
    [ "$rows" = "$(commits)" ] || fail "$rows rows, $(commits) commits"
    umount /mnt || fail "umount"
    say "$rows commits, every one there"
}
