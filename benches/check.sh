# shellcheck shell=bash disable=SC2154
# The part check of scripts/bench.

check_part() {
  build_demo
  say "check: four hosts, three of them control planes, $short rounds"
  make_lab 4 "$image"
  check_rounds pre
  run_chasi check-site run --yes
  check_rounds post
  drop_lab
  simulate
  heading "all checks of four hosts"
  row check-pre "chasi check pre, bare hosts"
  printf '    %s\n' "$pre"
  row check-post "chasi check post, the cluster on them"
  printf '    %s\n' "$post"
  heading "a hundred simulated hosts on this machine"
  row simulated-ways "the ways between them"
  row simulated-judging "all judgements of \`pre\`"
  row simulated-all "both, with making the hosts"
  printf '    %s\n' "$simulated"
}

# check_rounds PHASE: the variable PHASE says what the last round found.
check_rounds() {
  local round
  for ((round = 0; round < short; round++)); do
    run_chasi "check-$1" check "$1"
  done
  printf -v "$1" '%s' "$(jq -r '
    "\([.findings[].check] | unique | length) checks, \(.findings | length) findings: " +
    "\(.counts.errors) wrong, \(.counts.warnings) warnings, \(.counts.unknown) unknown, " +
    "\(.counts.passed) passed, \(.counts.not_applicable) not applicable; " +
    "\(.ways.measured) of \(.ways.all) ways"' "$work/report")"
}

# What grows with the pairs of hosts: agents in one process, each on an address of
# loopback, with real sockets between them. What a host is asked of itself each host
# does by itself, and four of them show it.
simulate() {
  local round seconds
  for ((round = 0; round < short; round++)); do
    TMPDIR=$work measure simulated-all "$simulation" --nocapture --exact \
      cluster::check::tests::between::a_hundred_hosts_are_measured_by_the_sampling_rule
    simulated=$(sed -n 's/.*100 simulated hosts: //p' "$work/output")
    [ -n "$simulated" ] || die "the simulation says nothing: $simulation"
    for seconds in ways judging; do
      note "simulated-$seconds" "$(sed -n "s/.*[ ;]$seconds \([0-9.]*\) s.*/\1/p" <<<"$simulated")"
    done
  done
  simulated=${simulated%%; *}
}
