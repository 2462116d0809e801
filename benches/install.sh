# shellcheck shell=bash disable=SC2154
# The part install of scripts/bench.

install_part() {
  build_demo
  say "install: three control planes and a worker, $long rounds"
  make_lab 4 "$image"
  local round idle
  for ((round = 0; round < long; round++)); do
    ((round == 0)) || fresh_hosts
    run_chasi install run --yes
    note_phases install
    for ((idle = 0; idle < 3; idle++)); do
      run_chasi idle run --yes
      jq -e '.steps == 0' "$work/report" >/dev/null || die "a run with nothing to do did something"
    done
    memory=$(service_memory)
    ((round > 0)) || take_along 0
    fresh_hosts
    prepare prepare "${!hosts[@]}"
    by_hand
  done
  drop_lab
  heading "bare hosts to ready nodes and pods"
  row install "chasi run"
  phase_rows install
  row by-hand-all "by hand: prepare, then kubeadm"
  row prepare "  prepare: copy programs, import images"
  row by-hand "  kubeadm and kubectl"
  for phase in init objects join-2 join-3 join-4 settle; do
    row "by-hand-$phase" "    $phase"
  done
  ratio "chasi : kubeadm on prepared hosts" install by-hand
  ratio "chasi : by hand with preparing" install by-hand-all
  heading "a run with nothing to do, four hosts"
  row idle "chasi run"
  printf '\n  node service on a host: %s\n' "$memory"
}

# Pages of the program's file are shared with nobody here, but can be dropped.
service_memory() {
  on 0 'cat /proc/$(systemctl show -P MainPID chasi-node.service)/status' | awk '
    { kilobytes[$1] = $2 }
    END {
      printf "%.1f MB resident, of it %.1f MB its own and %.1f MB of the program file",
        kilobytes["VmRSS:"] / 1000, kilobytes["RssAnon:"] / 1000, kilobytes["RssFile:"] / 1000
    }'
}

# The commands as a person types them, one after the other, and the same end: all
# nodes and pods ready.
by_hand() {
  local begin preparing total index
  begin=$(now)
  begin_by_hand by-hand 0
  for index in 1 2; do
    timed "by-hand-join-$((index + 1))" "$index" "$join --control-plane --certificate-key $key --node-name ${hosts[$index]}"
  done
  timed by-hand-join-4 3 "$join --node-name ${hosts[3]}"
  timed by-hand-settle 0 "$(settled 4)"
  total=$(since "$begin")
  note by-hand "$total"
  preparing=$(tail -n 1 "$(series prepare)")
  note by-hand-all "$(awk -v a="$preparing" -v b="$total" 'BEGIN { print a + b }')"
}
