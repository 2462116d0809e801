# shellcheck shell=bash disable=SC2154,SC2034
# What the parts install and node of scripts/bench are beside: hosts prepared by hand,
# and the commands that a person types there.

# take_along PLANE: what hosts that are prepared by hand need: the same programs,
# settings and images, taken from the first host, which chasi installed. PLANE is the
# number of the host that becomes the first control plane by hand.
take_along() {
  local plane=$1
  rm -rf "$work/hand"
  mkdir "$work/hand"
  ignore='--ignore-preflight-errors=SystemVerification,Swap,FileContent--proc-sys-net-bridge-bridge-nf-call-iptables'
  join="kubeadm join ${addresses[$plane]}:6443 --token abcdef.0123456789abcdef --discovery-token-unsafe-skip-ca-verification $ignore"
  # References, without the names by digest that containerd's CRI plugin adds.
  on 0 'ctr -n k8s.io images ls -q' | grep -v '^sha256:' | grep -v '@sha256:' >"$work/hand/references"
  on 0 'ctr -n k8s.io images export --platform linux/amd64 /tmp/images.tar '"$(tr '\n' ' ' <"$work/hand/references")"' && cat /tmp/images.tar && rm /tmp/images.tar' >"$work/hand/images.tar"
  on 0 'cd /var/lib/chasi/node && tar -c usr/local/bin opt -C / etc/containerd/config.toml' >"$work/hand/programs.tar"
  on 0 'cat /etc/systemd/system/containerd.service' | sed 's,/var/lib/chasi/node,,g' >"$work/hand/containerd.service"
  # The network as upstream has it: chasi's manifest stands on chasi's balancer.
  find "$(scripts/mirror path flannel-manifest-v0.28.4)/http" -name kube-flannel.yml -exec cat {} + >"$work/hand/manifests.yaml"
  { echo && echo --- && cat images/demo/chasi/manifests/demo.yaml; } >>"$work/hand/manifests.yaml"
  # The same configuration, with the first control plane in the place of chasi's
  # balancer.
  key=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
  on 0 'cat /etc/kubernetes/kubeadm.yaml' |
    sed -e "s/\\b${addresses[0]}\\b/${addresses[$plane]}/;s/\\b${hosts[0]}\\b/${hosts[$plane]}/" \
      -e "s/^controlPlaneEndpoint: .*/controlPlaneEndpoint: ${addresses[$plane]}:6443/" \
      -e "/^kind: InitConfiguration/a certificateKey: $key\nbootstrapTokens:\n- token: abcdef.0123456789abcdef" \
      >"$work/hand/kubeadm.yaml"
  cat >"$work/hand/kubelet.service" <<'UNIT'
[Unit]
After=containerd.service
[Service]
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
ExecStart=/usr/local/bin/kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf --config=/var/lib/kubelet/config.yaml $KUBELET_KUBEADM_ARGS
Restart=always
RestartSec=10
[Install]
WantedBy=multi-user.target
UNIT
}

# prepare SERIES INDEX…: all of these hosts at once.
prepare() {
  local begin index waiting=()
  begin=$(now)
  for index in "${@:2}"; do
    prepare_host "$index" &
    waiting+=($!)
  done
  for index in "${waiting[@]}"; do
    wait "$index" || die "preparing a host failed"
  done
  note "$1" "$(since "$begin")"
}

prepare_host() {
  on "$1" 'tar -C / -x' <"$work/hand/programs.tar"
  on "$1" 'cat >/etc/systemd/system/containerd.service' <"$work/hand/containerd.service"
  on "$1" 'cat >/etc/systemd/system/kubelet.service' <"$work/hand/kubelet.service"
  on "$1" 'cat >/root/kubeadm.yaml' <"$work/hand/kubeadm.yaml"
  # CoreDNS ends where /etc/resolv.conf names nobody.
  on "$1" "sed -i 's,/var/lib/chasi/node,,g;/config_path/d' /etc/containerd/config.toml
    echo nameserver ${addresses[0]%.*}.1 >/etc/resolv.conf
    sysctl -q -w net.ipv4.ip_forward=1
    systemctl daemon-reload && systemctl enable -q --now containerd && systemctl enable -q kubelet"
  on "$1" 'ctr -n k8s.io images import --platform linux/amd64 - >/dev/null' <"$work/hand/images.tar"
}

# timed SERIES INDEX COMMAND
timed() {
  local name=$1 begin
  shift
  begin=$(now)
  on "$@" >"$work/output" 2>&1 </dev/null || {
    tail -n 30 "$work/output" >&2
    die "failed by hand: ${*:2}"
  }
  note "$name" "$(since "$begin")"
}

# begin_by_hand SERIES INDEX: the first control plane, the pod network and the demo.
begin_by_hand() {
  timed "$1-init" "$2" "kubeadm init --upload-certs --config /root/kubeadm.yaml $ignore"
  on "$2" 'cat >/root/manifests.yaml' <"$work/hand/manifests.yaml"
  timed "$1-objects" "$2" 'KUBECONFIG=/etc/kubernetes/admin.conf kubectl apply -f /root/manifests.yaml'
}

# settled COUNT: the command that waits until so many nodes, and all pods, are ready.
settled() {
  printf 'export KUBECONFIG=/etc/kubernetes/admin.conf
    until [ "$(kubectl get nodes -o name | wc -l)" = %s ]; do sleep 0.5; done
    kubectl wait --timeout=300s --for=condition=Ready nodes --all &&
    kubectl wait --timeout=300s --for=condition=Ready pods --all -A' "$1"
}
