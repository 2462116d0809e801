# shellcheck shell=bash disable=SC2154
# The part node of scripts/bench.
#
# Two clusters of one control plane each, side by side, for the whole time: chasi's of
# the first host, and one by hand of the third. In each round the second host joins the
# one and the fourth the other; in between they leave and get fresh disks.

node_part() {
  build_demo
  say "node: a worker joins a control plane, $long rounds"
  make_lab 4 "$image"
  of_first_host
  run_chasi node-site run --yes
  take_along 2
  prepare node-plane 2
  begin_by_hand node-plane 2
  timed node-plane-settle 2 "$(settled 1)"
  local round
  for ((round = 0; round < long; round++)); do
    ((round == 0)) || apart
    prepare node-prepare 3
    run_chasi node-add node add "${hosts[1]}=${addresses[1]}" --write --yes
    note_phases node-add
    join_by_hand
  done
  drop_lab
  heading "one worker more, to ready nodes and pods"
  row node-add "chasi node add, a bare host"
  phase_rows node-add
  row node-hand-all "by hand: prepare, then kubeadm"
  row node-prepare "  prepare: copy programs, import images"
  row node-hand "  kubeadm and kubectl"
  row node-join "    kubeadm join"
  row node-settle "    nodes and pods ready"
  ratio "chasi : kubeadm on a prepared host" node-add node-hand
  ratio "chasi : by hand with preparing" node-add node-hand-all
}

# The lab's Clusterfile with its first host alone, which runs pods as well.
of_first_host() {
  awk -v stays="${hosts[0]}" '
    /^    - name: / { out = $3 != stays }
    /^ ? ?[^ ]/ { out = 0 }
    !out { sub(/roles: \[.*\]/, "roles: [control-plane, worker]"); print }
  ' "$work/Clusterfile" >"$work/Clusterfile.new"
  mv "$work/Clusterfile.new" "$work/Clusterfile"
}

join_by_hand() {
  local begin total
  begin=$(now)
  timed node-join 3 "$join --node-name ${hosts[3]}"
  timed node-settle 2 "$(settled 2)"
  total=$(since "$begin")
  note node-hand "$total"
  note node-hand-all "$(awk -v a="$(tail -n 1 "$(series node-prepare)")" -v b="$total" 'BEGIN { print a + b }')"
}

# Both workers leave, with all that could still be on its way out in the next round.
apart() {
  run_chasi node-delete node delete "${hosts[1]}" --delete-emptydir-data --write --yes
  left 0 "${hosts[1]}"
  timed node-leave 2 "export KUBECONFIG=/etc/kubernetes/admin.conf
    kubectl drain ${hosts[3]} --ignore-daemonsets --delete-emptydir-data &&
    kubectl delete node ${hosts[3]}"
  fresh_hosts "${hosts[1]}" "${hosts[3]}"
  left 2 "${hosts[3]}"
}

# left PLANE NODE: waits until no pod of a node that is gone is left.
left() {
  timed node-left "$1" "export KUBECONFIG=/etc/kubernetes/admin.conf
    pods='get pods -A --field-selector spec.nodeName=$2 -o name'
    for second in \$(seq 180); do [ -n \"\$(kubectl \$pods)\" ] || break; sleep 1; done
    [ -z \"\$(kubectl \$pods)\" ] &&
    kubectl wait --timeout=180s --for=condition=Ready pods --all -A"
}
