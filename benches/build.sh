# shellcheck shell=bash disable=SC2154
# The part build of scripts/bench, and the tree that copy works on as well.

# The programs that a host gets, as files: what build and copy work on.
make_tree() {
  scripts/mirror build
  local tree=$work/context component
  mkdir -p "$tree/usr/local/bin" "$tree/opt/cni/bin" "$tree/opt/k3s-root"
  for name in kubeadm kubelet kubectl; do
    cp -a "$(scripts/mirror path kubernetes-v1.34.4)/bin/$name" "$tree/usr/local/bin/"
  done
  for component in containerd-v2.1.5 runc-v1.3.3; do
    cp -a "$(scripts/mirror path "$component")/bin/." "$tree/usr/local/bin/"
  done
  cp -a "$(scripts/mirror path cni-plugins-v1.9.1)/bin/." "$tree/opt/cni/bin/"
  cp -a "$(scripts/mirror path k3s-root-v0.15.2)/bin" "$tree/opt/k3s-root/"
  printf 'FROM scratch\nLAYER kubernetes\nCOPY usr /usr/\nCOPY opt /opt/\n' >"$work/Kubefile"
  size=$(du -sb --apparent-size "$tree" | awk '{ print $1 / 1e6 }')
  files=$(find "$tree" -type f | wc -l)
}

# Each tool takes the tree in as one layer, with nothing cached; then one file
# changes. umoci always compresses with gzip, at its library's default level; chasi
# with zstd at level 3. umoci syncs nothing to the disk, chasi everything.
build_part() {
  say "build: $(printf '%.0f' "$size") MB in $files files, $short rounds"
  local umoci=$work/umoci round
  for ((round = 0; round < short; round++)); do
    rm -rf "$work/store" "$work/cache" "$umoci"
    build_with_chasi chasi-cold
    build_with_chasi chasi-same
    umoci init --layout "$umoci"
    umoci new --image "$umoci:tree"
    measure umoci-insert umoci insert --image "$umoci:tree" "$work/context" /tree
    umoci unpack --image "$umoci:tree" "$work/bundle" >/dev/null
    # One program of thirty is another one.
    printf 'round %s' "$round" >>"$work/context/usr/local/bin/runc"
    printf 'round %s' "$round" >>"$work/bundle/rootfs/tree/usr/local/bin/runc"
    build_with_chasi chasi-changed
    measure umoci-repack umoci repack --image "$umoci:changed" "$work/bundle"
    rm -rf "$work/bundle"
  done
  heading "nothing cached"
  row chasi-cold "chasi build (zstd -3)" "$size"
  row umoci-insert "umoci insert (gzip)" "$size"
  ratio "times as fast as umoci" umoci-insert chasi-cold
  heading "again"
  row chasi-same "chasi build, nothing changed" "$size"
  row chasi-changed "chasi build, one program changed" "$size"
  row umoci-repack "umoci repack, one program changed" "$size"
  ratio "times as fast as umoci" umoci-repack chasi-changed
  printf '  %-42s %s MB, umoci %s MB\n' "stored:" "$(megabytes "$work/store/blobs")" "$(megabytes "$umoci/blobs")"
}

megabytes() { du -sb --apparent-size "$1" | awk '{ printf "%.1f", $1 / 1e6 }'; }

build_with_chasi() {
  CHASI_STORE=$work/store CHASI_CACHE=$work/cache measure "$1" \
    "$chasi" --quiet build -t bench/tree:1 -f "$work/Kubefile" --lock-file "$work/lock" "$work/context"
}
