#!/usr/bin/env bash
# The files of tuning/ on invented machines: applied twice and undone, byte for byte; dry runs that change nothing;
# the unit judged by systemd's own tools where they are. Touches nothing outside a temporary folder.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failures=0
: >"$work/log"

say() { printf '%s\n' "$*"; }
# holds WORDS COMMAND...: what should be true is. The output of the command before is in $work/said.
holds() {
    local words=$1
    shift
    mv "$work/log" "$work/said"
    "$@" >"$work/log" 2>&1 && { say "ok    $words"; return; }
    say "FAILS $words"
    sed 's/^/      /' "$work/log" | tail -n 15
    failures=$((failures + 1))
}
fails() { ! "$@"; }
# Every file, folder, mode and content of a root, as one text.
picture() {
    (cd "$1" && find . -printf '%P %y %m %l\n' | sort && find . -type f | sort | xargs -d '\n' sha256sum)
}
same_picture() { diff <(picture "$1") <(picture "$2"); }
put() {
    mkdir -p "$(dirname "$1")"
    printf '%s\n' "$2" >"$1"
}
has() { [[ $(cat "$1") == "$2" ]] || { say "$1 has $(cat "$1"), not $2"; return 1; }; }
missing() { [[ ! -e $1 ]]; }

# A machine of eight cores with a NIC of QUEUES queues, PCI or virtio, as /proc and /sys would show it.
machine() { # ROOT QUEUES pci|virtio
    local root=$1 queues=$2 i irq device=sys/devices/pci0000:00/0000:00:03.0
    mkdir -p "$root"/{etc/sysctl.d,var/lib,proc/irq}
    put "$root/etc/sysctl.d/10-other.conf" "vm.overcommit_memory = 0"
    put "$root/sys/devices/system/cpu/online" "0-7"
    put "$root/proc/sys/kernel/io_uring_disabled" 2
    put "$root/proc/sys/fs/nr_open" 1048576
    put "$root/proc/sys/vm/swappiness" 60
    put "$root/proc/sys/net/core/somaxconn" 128
    put "$root/proc/sys/net/core/rps_sock_flow_entries" 0
    put "$root/proc/sys/net/ipv4/tcp_max_syn_backlog" 512
    put "$root/proc/sys/net/ipv4/tcp_syncookies" 1
    put "$root/proc/sys/net/ipv4/tcp_rmem" $'4096\t131072\t6291456'
    put "$root/proc/sys/net/ipv4/tcp_wmem" $'4096\t16384\t4194304'
    put "$root/proc/sys/net/ipv4/tcp_slow_start_after_idle" 1
    put "$root/proc/sys/net/ipv4/ip_local_port_range" $'32768\t60999'
    local nic=$device/net/eth0 name
    [[ $3 == pci ]] || nic=$device/virtio2/net/eth0
    mkdir -p "$root/sys/class/net" "$root/$nic"
    ln -s "../../../$nic" "$root/sys/class/net/eth0"
    ln -s ../.. "$root/$nic/device"
    mkdir -p "$root/$device/msi_irqs"
    irq=36
    put "$root/$device/msi_irqs/$irq" msix
    put "$root/proc/irq/$irq/smp_affinity" ff
    printf ' 36: 0 0 PCI-MSIX-0000:00:03.0 0-edge virtio2-config\n' >"$root/proc/interrupts"
    for ((i = 0; i < queues; i++)); do
        put "$root/$nic/queues/rx-$i/rps_cpus" 00
        put "$root/$nic/queues/rx-$i/rps_flow_cnt" 0
        put "$root/$nic/queues/tx-$i/xps_cpus" 00
        local names=("eth0-TxRx-$i")
        [[ $3 == pci ]] || names=("virtio2-input.$i" "virtio2-output.$i")
        for name in "${names[@]}"; do
            irq=$((irq + 1))
            put "$root/$device/msi_irqs/$irq" msix
            put "$root/proc/irq/$irq/smp_affinity" ff
            printf ' %s: 0 0 PCI-MSIX-0000:00:03.0 %s-edge %s\n' $irq $((irq - 36)) "$name" >>"$root/proc/interrupts"
        done
    done
}

files() {
    local root=$work/files before=$work/files.before sysctls=$work/files/proc/sys
    machine "$root" 1 pci
    put "$root/etc/security/limits.d/uringcast.conf" "# someone's own"
    chmod 640 "$root/etc/security/limits.d/uringcast.conf"
    cp -a "$root" "$before"
    holds "a dry run changes nothing" tuning/tune apply --dry-run --root "$root"
    holds "a dry run says what it would do" grep -q 'would set net.core.somaxconn = 4096 (was 128)' "$work/said"
    holds "nothing was changed" same_picture "$before" "$root"
    holds "status sees that it is not in place" fails tuning/tune status --root "$root"
    holds "apply" tuning/tune apply --root "$root"
    holds "the sysctl file is there" cmp tuning/99-uringcast.sysctl.conf "$root/etc/sysctl.d/99-uringcast.conf"
    holds "the limits are there" cmp tuning/uringcast.limits.conf "$root/etc/security/limits.d/uringcast.conf"
    holds "the unit is there" cmp tuning/uringcast.service "$root/etc/systemd/system/uringcast.service"
    holds "one number is loaded" has "$sysctls/net/core/somaxconn" 4096
    holds "three numbers are loaded" has "$sysctls/net/ipv4/tcp_wmem" "4096 16384 1048576"
    holds "what a kernel may lack is loaded where it is" has "$sysctls/kernel/io_uring_disabled" 0
    holds "status sees that it is in place" tuning/tune status --root "$root"
    cp -a "$root" "$work/files.once"
    holds "apply again" tuning/tune apply --root "$root"
    holds "it had nothing to say" fails test -s "$work/said"
    holds "twice is once" same_picture "$work/files.once" "$root"
    holds "undo, dry" tuning/tune undo --dry-run --root "$root"
    holds "a dry undo changes nothing" same_picture "$work/files.once" "$root"
    holds "undo" tuning/tune undo --root "$root"
    # Between numbers the kernel shows tabs whatever was written; a file shows the spaces.
    sed -i 's/ /\t/g' "$sysctls"/net/ipv4/{tcp_rmem,tcp_wmem,ip_local_port_range}
    holds "all is as it was before" same_picture "$before" "$root"
    holds "undo again" tuning/tune undo --root "$root"
    holds "and it stays so" same_picture "$before" "$root"

    holds "apply anew" tuning/tune apply --root "$root"
    printf 'vm.swappiness = 10\n' >>"$root/etc/sysctl.d/99-uringcast.conf"
    holds "undo of an edited file" tuning/tune undo --root "$root"
    holds "what was edited is kept" grep -q 'swappiness = 10' "$root/etc/sysctl.d/99-uringcast.conf.edited"
    holds "and out of force" missing "$root/etc/sysctl.d/99-uringcast.conf"

    rm "$sysctls/net/core/somaxconn"
    holds "a key that must be there is missed" fails tuning/tune status --root "$root"
    holds "a wrong word is refused" fails tuning/tune aply --root "$root"
    holds "no command is refused" fails tuning/tune --root "$root"
}

# interrupts QUEUES pci|virtio
nic() {
    local root=$work/nic-$1-$2 before=$work/nic-$1-$2.before
    machine "$root" "$1" "$2"
    cp -a "$root" "$before"
    holds "$1 queues, $2: a dry run" tuning/irq eth0 --dry-run --root "$root"
    holds "$1 queues, $2: changes nothing" same_picture "$before" "$root"
    holds "$1 queues, $2: spread" tuning/irq eth0 --cpus 0-3,6 --root "$root"
    cp -a "$root" "$work/once-$1-$2"
    holds "$1 queues, $2: spread again" tuning/irq eth0 --cpus 0-3,6 --root "$root"
    holds "$1 queues, $2: twice is once" same_picture "$work/once-$1-$2" "$root"
    holds "$1 queues, $2: status" tuning/irq eth0 --status --root "$root"
    holds "$1 queues, $2: other cores" tuning/irq eth0 --cpus 4,5 --root "$root"
    holds "$1 queues, $2: undo" tuning/irq eth0 --undo --root "$root"
    holds "$1 queues, $2: as it was before" same_picture "$before" "$root"
    holds "$1 queues, $2: undo again" tuning/irq eth0 --undo --root "$root"
    holds "$1 queues, $2: and it stays so" same_picture "$before" "$root"
}

interrupts() {
    local queues
    nic 1 virtio
    queues=$work/once-1-virtio/sys/class/net/eth0/queues
    holds "one queue: RPS over the shards' cores" has "$queues/rx-0/rps_cpus" 4f
    holds "one queue: RFS" has "$queues/rx-0/rps_flow_cnt" 65536
    holds "one queue: flows" has "$work/once-1-virtio/proc/sys/net/core/rps_sock_flow_entries" 65536
    holds "one queue: every core sends by it" has "$queues/tx-0/xps_cpus" 4f
    holds "one queue: configuration is left alone" has "$work/once-1-virtio/proc/irq/36/smp_affinity" ff
    nic 5 virtio
    holds "in and out of a queue share a core" has "$work/once-5-virtio/proc/irq/42/smp_affinity" 4
    holds "… both" has "$work/once-5-virtio/proc/irq/41/smp_affinity" 4
    nic 8 pci
    queues=$work/once-8-pci/sys/class/net/eth0/queues
    holds "enough queues: no RPS" has "$queues/rx-0/rps_cpus" 00
    holds "enough queues: the fifth core" has "$work/once-8-pci/proc/irq/41/smp_affinity" 40
    holds "enough queues: the sixth queue is the first core's" has "$queues/tx-5/xps_cpus" 1
    machine "$work/many" 1 pci
    put "$work/many/sys/devices/system/cpu/online" 0-71
    holds "72 cores" tuning/irq eth0 --root "$work/many"
    holds "72 cores: a mask of three words" has "$work/many/sys/class/net/eth0/queues/rx-0/rps_cpus" ff,ffffffff,ffffffff
    holds "an unknown device is refused" fails tuning/irq eth7 --root "$work/many"
    holds "no device is refused" fails tuning/irq --root "$work/many"
    holds "a path is no device" fails tuning/irq ../net/eth0 --root "$work/many"
    holds "nonsense is no list" fails tuning/irq eth0 --cpus all --root "$work/many"
}

# The unit as systemd sees it. What it runs is not installed here: a copy names a program that is.
unit() {
    command -v systemd-analyze >/dev/null || { say "not verified: no systemd-analyze here"; return; }
    local copy=$work/uringcast.service
    sed 's|^ExecStart=/usr/local/bin/uringcast |ExecStart=/bin/true |' tuning/uringcast.service >"$copy"
    holds "systemd verifies the unit" systemd-analyze verify --man=no --recursive-errors=no "$copy"
    holds "… without a warning" fails grep -q 'uringcast.service' "$work/said"
    # With every line in force that is only offered.
    sed -i 's/^#\([A-Z][A-Za-z]*=\)/\1/' "$copy"
    holds "systemd verifies it with credentials and CPUs" systemd-analyze verify --man=no --recursive-errors=no "$copy"
    holds "… without a warning either" fails grep -q 'uringcast.service' "$work/said"
    holds "its exposure is below 2 of 10" systemd-analyze security --offline=yes --threshold=20 "$copy"
    grep -m 1 'exposure level' "$work/log"
}

scripts() {
    local script
    for script in tuning/tune tuning/irq tests/tuning/run.sh; do
        holds "bash reads $script" bash -n "$script"
        if command -v shellcheck >/dev/null; then
            holds "shellcheck has nothing to say about $script" shellcheck "$script"
        else
            say "not verified: no shellcheck here"
        fi
    done
}

# Not from its own folder, and not by its own name.
checks() {
    command -v cargo >/dev/null || { say "not tried: no cargo here"; return; }
    ln -s "$PWD/check" "$work/all-checks"
    holds "./check works through a symbolic link" env -C / "$work/all-checks" fmt
}

scripts
checks
files
interrupts
unit
say "$failures failures"
[[ $failures == 0 ]]
