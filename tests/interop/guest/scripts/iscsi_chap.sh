# Logins with no, wrong and right secrets, one-way and mutual. TARGET, PORTAL, NAME, SECRET, NAME_IN, SECRET_IN
. /rig/lib.sh
start_iscsi
record() { iscsiadm -m node -T "$TARGET" -p "$PORTAL" "$@"; }
auth() {
    while [ $# -gt 0 ]; do
        record -o update -n "node.session.auth.$1" -v "$2" || fail "record $1"
        shift 2
    done
}
come_in() {
    record --login >/tmp/login 2>&1 || fail "$1: $(</tmp/login)"
    until_ok 20 iscsi_disk "$PORTAL" >/dev/null
    until_ok 20 is_disk "$(iscsi_disk "$PORTAL")"
    dd if="$(iscsi_disk "$PORTAL")" of=/dev/null bs=4096 count=16 iflag=direct status=none || fail "$1: no data"
    record --logout >/dev/null || fail "$1: logout"
    until_ok 10 no_iscsi_session
    say "$1: let in"
}
stay_out() {
    record --login >/tmp/login 2>&1 && fail "$1 was let in"
    no_iscsi_session || fail "$1 left a session"
    say "$1: $(grep -oE 'login failed.*|initiator reported error.*' /tmp/login | tail -n 1)"
}
record -o new >/dev/null || fail "record"
stay_out "no secret"
auth authmethod CHAP username "$NAME" password "not-$SECRET"
stay_out "a wrong secret"
auth password "$SECRET" username "$NAME_IN"
stay_out "a wrong name"
auth username "$NAME"
come_in "the right secret"
auth username_in "$NAME_IN" password_in "not-$SECRET_IN"
stay_out "a target that does not know its secret"
auth password_in "$SECRET_IN"
come_in "both right secrets"
exit 0
