# shellcheck shell=bash disable=SC2154
# The part copy of scripts/bench.

# chasi leaves a generation: every file verified, on the disk. Beside it, tar alone,
# and tar with a sync at its end. First over the link as it is, which is the memory
# of one machine, then over one as fast as most sites have.
copy_part() {
  say "copy: $(printf '%.0f' "$size") MB in $files files to a throwaway host, $short rounds"
  [ -d "$work/store" ] || build_with_chasi chasi-for-copy
  make_lab 1 bench/tree:1
  local round
  for ((round = 0; round < short; round++)); do
    copy_round fast
    "$chasi" --quiet lab net --name "$lab" "${hosts[0]}" limit 1gbit
    copy_round gigabit
    "$chasi" --quiet lab net --name "$lab" "${hosts[0]}" restore
  done
  drop_lab
  copy_table fast "first copy, no limit"
  copy_table gigabit "first copy, 1 Gbit/s"
  heading "second copy"
  row fast-again-total "chasi: nothing is missing"
}

# copy_round SERIES
copy_round() {
  on 0 'rm -rf /var/lib/peer && mkdir /var/lib/peer && sync'
  measure "$1-tar" bash -c 'set -o pipefail; tar -C "$1" -c . | ssh "${@:2}" tar -C /var/lib/peer -x' \
    bash "$work/context" "${reach[@]}" "root@${addresses[0]}"
  on 0 'rm -rf /var/lib/peer && mkdir /var/lib/peer && sync'
  measure "$1-tar-sync" bash -c 'set -o pipefail; tar -C "$1" -c . | ssh "${@:2}" "tar -C /var/lib/peer -x && sync -f /var/lib/peer"' \
    bash "$work/context" "${reach[@]}" "root@${addresses[0]}"
  on 0 'rm -rf /var/lib/peer /var/lib/chasi && sync'
  deliver "$1-first"
  on 0 'cd /var/lib/chasi && rm -rf store layers objects generations && sync'
  deliver "$1-known"
  deliver "$1-again"
}

# copy_table SERIES TITLE
copy_table() {
  local phase
  heading "$2"
  row "$1-first-total" "chasi: connect, copy, stage" "$size"
  for phase in connect copy stage; do
    row "$1-first-$phase" "  $phase"
  done
  row "$1-known-total" "chasi, its agent is there already" "$size"
  row "$1-tar" "tar | ssh" "$size"
  row "$1-tar-sync" "tar | ssh, synced" "$size"
  ratio "times as fast as tar | ssh" "$1-tar" "$1-first-total"
  ratio "the same, its agent is there already" "$1-tar" "$1-known-total"
  ratio "times as fast as tar | ssh, synced" "$1-tar-sync" "$1-first-total"
}

# deliver SERIES
deliver() {
  local phase
  "$delivery" "$work/Clusterfile" "$work/store" >"$work/delivered" 2>"$work/output" || {
    cat "$work/output" >&2
    die "the delivery failed"
  }
  for phase in connect copy stage total; do
    note "$1-$phase" "$(jq ".$phase" "$work/delivered")"
  done
}
